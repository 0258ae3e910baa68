"""What generated samples are judged by."""
