"""0. Only when there is no encoder: raw sequences to an ordinary Hugging Face folder."""
