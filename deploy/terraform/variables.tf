# The knobs of `tickertape deploy cloud-run`, under the same names and with the same defaults.

variable "project" {
  description = "Google Cloud project."
  type        = string
}

variable "region" {
  description = "Region, such as europe-west1."
  type        = string
}

variable "image" {
  description = "The image, as `tickertape deploy cloud-run` or a build of your own pushed it."
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
  description = "With a bucket: the prepared folder in it. Without: what is baked into the image is served."
  type        = string
  default     = ""
}

variable "cpu" {
  description = "Processors of an instance."
  type        = number
  default     = 8
}

variable "memory" {
  description = "Memory of an instance."
  type        = string
  default     = "4Gi"
}

variable "max_instances" {
  description = "Most instances at once."
  type        = number
  default     = 2
}

variable "min_instances" {
  description = "Instances that are kept without requests."
  type        = number
  default     = 0
}

variable "gpu" {
  description = "nvidia-l4 or nvidia-rtx-pro-6000; empty for none."
  type        = string
  default     = ""
}

variable "concurrency" {
  description = "Requests that an instance takes at once; 0 for two batches: 8 requests per processor, 8 to 32."
  type        = number
  default     = 0
}

variable "allow_unauthenticated" {
  description = "Let everybody on the internet call the service."
  type        = bool
  default     = false
}

variable "service_account" {
  description = "Account that the service runs as; empty for the project's default."
  type        = string
  default     = ""
}

variable "keys_secret" {
  description = "Secret that holds the file of hashed API keys; empty for none."
  type        = string
  default     = ""
}

variable "bucket" {
  description = "Bucket with prepared checkpoints, mounted read-only; empty for none."
  type        = string
  default     = ""
}

variable "object_hosts" {
  description = "Hosts, and buckets as gs://NAME, whose recordings callers may name instead of sending them; with commas."
  type        = string
  default     = ""
}

variable "ray" {
  description = "Engines in processes of their own, or all in one."
  type        = bool
  default     = true
}
