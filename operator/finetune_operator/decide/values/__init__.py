"""What decisions read and return, as frozen values: observation in, actions out."""
