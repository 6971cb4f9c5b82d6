"""What fine-tuning is made of; read `onevec.encoders.finetune` first, it is the loop."""
