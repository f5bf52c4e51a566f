"""From a trained adapter to verified files in S3: export, model card, manifest, upload."""
