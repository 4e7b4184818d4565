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

# An object, and lists below: whether there is one is known before what it will be.
variable "nat_gateway" {
  description = "The way out for tasks that need the internet, as in {id = \"nat-0cccccccc\"}; without one runners reach the VPC and the endpoints alone"
  type        = object({ id = string })
  default     = null
}

variable "endpoints" {
  description = "false where the VPC has interface endpoints with private names already; S3's gateway is made either way"
  type        = bool
  default     = true
}

variable "broker_security_group_ids" {
  description = "The broker's groups, to let runners in; where there is none you let them in yourself"
  type        = list(string)
  default     = []
}

variable "broker_port" {
  description = "6379 for Redis, 5671 or 5672 for RabbitMQ"
  type        = number
  default     = 6379
}

variable "parent_roles" {
  description = "The names of the roles that parents run as, to be given the parent's policy; where there is none you attach it"
  type        = list(string)
  default     = []
}
