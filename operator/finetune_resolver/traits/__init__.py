"""What is known of each language: catalogue, declaration and measurement, combined by precedence."""
