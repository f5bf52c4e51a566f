"""What the commands read: resource files with their faults in words, local texts and local models."""
