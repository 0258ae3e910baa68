"""Training on images: runs that stop at any moment and go on."""
