"""S3, its errors, back-off and credentials. `s3` alone imports boto3."""
