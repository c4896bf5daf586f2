# The options of `tickertape deploy cloud-run`, with the same names and defaults.

variable "project" {
  description = "Google Cloud project."
  type        = string
}

variable "region" {
  description = "Region, such as europe-west1."
  type        = string
}

variable "image" {
  description = "Image that `tickertape deploy cloud-run` or your own build pushed."
  type        = string
}

variable "repository" {
  description = "Artifact Registry repository."
  type        = string
  default     = "tickertape"
}

variable "service" {
  description = "Name of the service."
  type        = string
  default     = "tickertape"
}

variable "model" {
  description = "Prepared folder in the bucket. Without a bucket, the checkpoint in the image is served."
  type        = string
  default     = ""
}

variable "cpu" {
  description = "CPUs of an instance."
  type        = number
  default     = 8
}

variable "memory" {
  description = "Memory of an instance."
  type        = string
  default     = "4Gi"
}

variable "max_instances" {
  description = "Maximum number of instances."
  type        = number
  default     = 2
}

variable "min_instances" {
  description = "Minimum number of instances."
  type        = number
  default     = 0
}

variable "gpu" {
  description = "nvidia-l4 or nvidia-rtx-pro-6000. Empty: no GPU."
  type        = string
  default     = ""
}

variable "concurrency" {
  description = "Concurrent requests per instance. 0: two batches, which is 8 requests per CPU, from 8 to 32."
  type        = number
  default     = 0
}

variable "allow_unauthenticated" {
  description = "Allow requests from the internet without authentication by Google."
  type        = bool
  default     = false
}

variable "service_account" {
  description = "Service account of the service. Empty: the project's default."
  type        = string
  default     = ""
}

variable "keys_secret" {
  description = "Secret with the file of hashed API keys. Empty: none."
  type        = string
  default     = ""
}

variable "bucket" {
  description = "Bucket with prepared checkpoints, mounted read-only. Empty: none."
  type        = string
  default     = ""
}

variable "object_hosts" {
  description = "Hosts, and buckets as gs://NAME, from which `file_url` may fetch, separated by commas. Empty: none."
  type        = string
  default     = ""
}

variable "ray" {
  description = "Run engines on Ray, or everything in one process."
  type        = bool
  default     = true
}
