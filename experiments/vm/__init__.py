"""Jobs on Google Cloud TPU VMs (`tpu_vm`).

  accelerators   an accelerator type's hosts, runtime version and machine type
  plan           the machine and the run that the user asked for
  queued         gcloud's argument lists for queued resources and TPU VMs
  compute        the same job on Compute Engine, as commands to paste
  remote         command lines for the hosts' shells
  gcloud         runs gcloud, or prints its commands
  job            a job's life: create, install, start, follow, create again
  worker         on each host: starts the run, follows it, stops it
  install.sh     on each host: uv, a Python of its own, the package
"""
