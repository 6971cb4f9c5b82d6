"""The fitted vector: scaler of tokens, poolers behind it, parts, and one torch module of them."""
