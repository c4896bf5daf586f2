output "address" {
  description = "URL of the service."
  value       = google_cloud_run_v2_service.service.uri
}

output "repository" {
  description = "Address of the image repository."
  value       = "${google_artifact_registry_repository.images.location}-docker.pkg.dev/${google_artifact_registry_repository.images.project}/${google_artifact_registry_repository.images.repository_id}"
}
