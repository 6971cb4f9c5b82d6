"""5. Which candidate beats the mean: scores without labels, the verdict, and labelled probes."""
