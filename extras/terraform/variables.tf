variable "app" {
  description = "Name of the release, and of this deployment in tags and lease"
  type        = string
  default     = "proj"
  validation {
    condition     = can(regex("^[a-z0-9][a-z0-9-]{0,25}$", var.app))
    error_message = "Lower-case letters, digits and -, at most 26."
  }
}

variable "image_id" {
  description = "What runners boot, such as Debian 12"
  type        = string
}

variable "broker" {
  description = "redis where broker or result backend is Redis; rabbitmq and sqs where neither is, for then the lease is in S3"
  type        = string
  default     = "redis"
  validation {
    condition     = contains(["redis", "rabbitmq", "sqs"], var.broker)
    error_message = "One of redis, rabbitmq, sqs."
  }
}

variable "parameter_arns" {
  description = "ARNs of the SSM parameters that env refers to"
  type        = list(string)
  default     = []
}

variable "secret_arns" {
  description = "ARNs of the secrets that env refers to; one that env names without its last six characters ends in -??????"
  type        = list(string)
  default     = []
}

variable "vpc_id" {
  description = "Where the broker is"
  type        = string
}

variable "subnets" {
  description = "Free ranges in the VPC by zone, as in {eu-west-1a = \"10.0.96.0/24\"}; some 250 runners fit in a /24"
  type        = map(string)
}

variable "nat_gateway_id" {
  description = "The way out for tasks that need the internet; without one runners reach the VPC and the endpoints alone"
  type        = string
  default     = null
}

variable "endpoints" {
  description = "false where the VPC has interface endpoints with private names already; S3's gateway is made either way"
  type        = bool
  default     = true
}

variable "broker_security_group_id" {
  description = "The broker's group, to let runners in; where it is null you let them in yourself"
  type        = string
  default     = null
}

variable "broker_port" {
  description = "6379 for Redis, 5671 or 5672 for RabbitMQ"
  type        = number
  default     = 6379
}

variable "parent_role" {
  description = "The name of the role that the parent runs as, to be given the parent's policy; where it is null you attach it"
  type        = string
  default     = null
}
