"""What a training and a decoding need of memory, computed from configs."""
