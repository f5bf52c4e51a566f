"""What a pod can be asked to do: train, measure, check a published run, or work as one rank."""
