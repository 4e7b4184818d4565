# What runners of celery-flame-ec2 need beside the application; docs/network.md tells about each.

terraform {
  required_version = ">= 1.5"
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 5.0"
    }
  }
}

data "aws_caller_identity" "this" {}

data "aws_partition" "this" {}

data "aws_vpc" "this" {
  id = var.vpc_id
}

locals {
  # by an ARN, for the provider's versions differ in what they call it
  region     = split(":", aws_security_group.runners.arn)[3]
  subnet_ids = [for zone in sort(keys(var.subnets)) : aws_subnet.runners[zone].id]
}
