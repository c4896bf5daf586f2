# The same service as deploy/cloudrun.yaml describes.

locals {
  environment = merge(
    {
      GOOGLE_CLOUD_PROJECT  = var.project
      TICKERTAPE_RAY        = tostring(var.ray)
      TICKERTAPE_BODY_LIMIT = "33554432"
    },
    var.gpu == "" ? {} : { TICKERTAPE_GPUS_PER_REPLICA = "1" },
    var.object_hosts == "" ? {} : { TICKERTAPE_OBJECT_HOSTS = var.object_hosts },
    var.bucket == "" ? {} : { TICKERTAPE_MODEL = "/srv/bucket/${var.model}" },
    var.keys_secret == "" ? {} : { TICKERTAPE_KEYS_FILE = "/etc/tickertape/keys.json" },
  )
  limits = merge(
    { cpu = tostring(var.cpu), memory = var.memory },
    var.gpu == "" ? {} : { "nvidia.com/gpu" = "1" },
  )
}

resource "google_artifact_registry_repository" "images" {
  project       = var.project
  location      = var.region
  repository_id = var.repository
  format        = "DOCKER"
}

resource "google_cloud_run_v2_service" "service" {
  project  = var.project
  location = var.region
  name     = var.service
  ingress  = "INGRESS_TRAFFIC_ALL"

  template {
    execution_environment            = "EXECUTION_ENVIRONMENT_GEN2"
    max_instance_request_concurrency = var.concurrency > 0 ? var.concurrency : min(32, max(8, 8 * var.cpu))
    timeout                          = "930s"
    session_affinity                 = true
    service_account                  = var.service_account == "" ? null : var.service_account
    gpu_zonal_redundancy_disabled    = var.gpu == "" ? null : true

    scaling {
      min_instance_count = var.min_instances
      max_instance_count = var.max_instances
    }

    dynamic "node_selector" {
      for_each = var.gpu == "" ? [] : [var.gpu]
      content {
        accelerator = node_selector.value
      }
    }

    containers {
      image = var.image

      ports {
        name           = "http1"
        container_port = 8080
      }

      dynamic "env" {
        for_each = local.environment
        content {
          name  = env.key
          value = env.value
        }
      }

      resources {
        limits            = local.limits
        cpu_idle          = var.gpu == ""
        startup_cpu_boost = true
      }

      startup_probe {
        period_seconds    = 2
        timeout_seconds   = 2
        failure_threshold = 120
        http_get {
          path = "/readyz"
          port = 8080
        }
      }

      liveness_probe {
        period_seconds    = 10
        timeout_seconds   = 5
        failure_threshold = 6
        http_get {
          path = "/healthz"
          port = 8080
        }
      }

      dynamic "volume_mounts" {
        for_each = var.keys_secret == "" ? [] : ["/etc/tickertape"]
        content {
          name       = "keys"
          mount_path = volume_mounts.value
        }
      }

      dynamic "volume_mounts" {
        for_each = var.bucket == "" ? [] : ["/srv/bucket"]
        content {
          name       = "checkpoints"
          mount_path = volume_mounts.value
        }
      }
    }

    dynamic "volumes" {
      for_each = var.keys_secret == "" ? [] : [var.keys_secret]
      content {
        name = "keys"
        secret {
          secret = volumes.value
          items {
            version = "latest"
            path    = "keys.json"
          }
        }
      }
    }

    dynamic "volumes" {
      for_each = var.bucket == "" ? [] : [var.bucket]
      content {
        name = "checkpoints"
        gcs {
          bucket    = volumes.value
          read_only = true
        }
      }
    }
  }
}

resource "google_cloud_run_v2_service_iam_member" "everybody" {
  count    = var.allow_unauthenticated ? 1 : 0
  project  = var.project
  location = var.region
  name     = google_cloud_run_v2_service.service.name
  role     = "roles/run.invoker"
  member   = "allUsers"
}
