"""The zoo: torchvision, timm and Hugging Face models, all with random weights."""
