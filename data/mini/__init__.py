"""The mini family: its facts, its word problems and the stream of text it was pretrained on."""
