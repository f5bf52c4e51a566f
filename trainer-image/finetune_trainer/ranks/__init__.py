"""Several processes of one pod that train one model: launcher, process group, commands to ranks."""
