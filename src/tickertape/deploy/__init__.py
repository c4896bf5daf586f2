"""Files and commands for Cloud Run and KubeRay."""
