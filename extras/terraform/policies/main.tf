# Who may do what: the statements that `flame iam-policy` prints. No provider is needed here.

variable "app" {
  type = string
}

variable "partition" {
  type = string
}

variable "region" {
  type = string
}

variable "account" {
  type = string
}

variable "bucket_arn" {
  type = string
}

variable "image_id" {
  type = string
}

variable "subnet_ids" {
  type = list(string)
}

variable "security_group_ids" {
  type = list(string)
}

variable "runner_role_arn" {
  type = string
}

variable "runner_profile_arn" {
  type = string
}

variable "broker" {
  type = string
}

variable "parameter_arns" {
  type = list(string)
}

variable "secret_arns" {
  type = list(string)
}

locals {
  ec2         = "arn:${var.partition}:ec2:${var.region}:${var.account}"
  lease       = "${var.bucket_arn}/flame/lease/${var.app}"
  lease_in_s3 = var.broker != "redis"
  has_board   = var.broker == "sqs"
  releases    = "${var.bucket_arn}/${var.app}/*.tar.gz"
  created = [
    for kind in ["instance", "network-interface", "spot-instances-request", "volume"] : "${local.ec2}:${kind}/*"
  ]
  services = concat(
    length(var.parameter_arns) > 0 ? ["ssm.${var.region}.amazonaws.com"] : [],
    length(var.secret_arns) > 0 ? ["secretsmanager.${var.region}.amazonaws.com"] : [],
  )

  # a statement, and whether it is needed
  parent = [
    [true, {
      Sid    = "RunOn"
      Effect = "Allow"
      Action = ["ec2:RunInstances"]
      Resource = concat(
        [
          "arn:${var.partition}:ec2:${var.region}::image/${var.image_id}",
          "arn:${var.partition}:ec2:${var.region}::snapshot/*",
        ],
        [for id in var.subnet_ids : "${local.ec2}:subnet/${id}"],
        [for id in var.security_group_ids : "${local.ec2}:security-group/${id}"],
      )
    }],
    [true, {
      Sid       = "RunCreates"
      Effect    = "Allow"
      Action    = ["ec2:RunInstances"]
      Resource  = local.created
      Condition = { StringEquals = { "aws:RequestTag/flame:owner" = var.app } }
    }],
    [true, {
      Sid      = "TagAtLaunch"
      Effect   = "Allow"
      Action   = ["ec2:CreateTags"]
      Resource = local.created
      Condition = { StringEquals = {
        "aws:RequestTag/flame:owner" = var.app
        "ec2:CreateAction"           = "RunInstances"
      } }
    }],
    [true, {
      Sid       = "OwnInstances"
      Effect    = "Allow"
      Action    = ["ec2:GetConsoleOutput", "ec2:TerminateInstances"]
      Resource  = ["${local.ec2}:instance/*"]
      Condition = { StringEquals = { "aws:ResourceTag/flame:owner" = var.app } }
    }],
    [true, {
      Sid      = "See"
      Effect   = "Allow"
      Action   = ["ec2:DescribeImages", "ec2:DescribeInstanceTypes", "ec2:DescribeInstances", "ec2:DescribeSubnets"]
      Resource = ["*"]
    }],
    [true, {
      Sid       = "PassRunnerRole"
      Effect    = "Allow"
      Action    = ["iam:PassRole"]
      Resource  = [var.runner_role_arn]
      Condition = { StringEquals = { "iam:PassedToService" = "ec2.amazonaws.com" } }
    }],
    [true, {
      Sid      = "SeeBundle"
      Effect   = "Allow"
      Action   = ["s3:GetObject", "s3:GetObjectVersion"]
      Resource = [local.releases]
    }],
    [local.lease_in_s3, {
      Sid      = "Lease"
      Effect   = "Allow"
      Action   = ["s3:DeleteObject", "s3:GetObject", "s3:PutObject"]
      Resource = [local.lease, "${local.lease}.notes", "${local.lease}.overrides"]
    }],
    [local.has_board, {
      Sid       = "ListWords"
      Effect    = "Allow"
      Action    = ["s3:ListBucket"]
      Resource  = [var.bucket_arn]
      Condition = { StringLike = { "s3:prefix" = "flame/lease/${var.app}.board/words/*" } }
    }],
    [local.has_board, {
      Sid      = "ClearWords"
      Effect   = "Allow"
      Action   = ["s3:DeleteObject"]
      Resource = ["${local.lease}.board/words/*"]
    }],
    [local.has_board, {
      Sid      = "GiveOrders"
      Effect   = "Allow"
      Action   = ["s3:GetObject", "s3:PutObject"]
      Resource = ["${local.lease}.board/orders"]
    }],
    [true, {
      Sid    = "DoctorSees"
      Effect = "Allow"
      Action = [
        "ec2:DescribeImages",
        "ec2:DescribeInstanceTypeOfferings",
        "ec2:DescribeInstanceTypes",
        "ec2:DescribeRouteTables",
        "ec2:DescribeSecurityGroups",
        "ec2:DescribeSubnets",
        "ec2:DescribeVpcEndpoints",
      ]
      Resource = ["*"]
    }],
    [true, {
      Sid      = "DoctorSeesProfile"
      Effect   = "Allow"
      Action   = ["iam:GetInstanceProfile"]
      Resource = [var.runner_profile_arn]
    }],
    [true, {
      Sid      = "DoctorSeesBundle"
      Effect   = "Allow"
      Action   = ["s3:GetObject"]
      Resource = [local.releases]
    }],
    [true, {
      Sid      = "DoctorSeesBucket"
      Effect   = "Allow"
      Action   = ["s3:ListBucket"]
      Resource = [var.bucket_arn]
    }],
  ]

  runner = [
    [true, {
      Sid      = "FetchBundle"
      Effect   = "Allow"
      Action   = ["s3:GetObject", "s3:GetObjectVersion"]
      Resource = [local.releases]
    }],
    [local.has_board, {
      Sid      = "PinWords"
      Effect   = "Allow"
      Action   = ["s3:DeleteObject", "s3:PutObject"]
      Resource = ["${local.lease}.board/words/*"]
    }],
    [local.has_board, {
      Sid      = "ReadOrders"
      Effect   = "Allow"
      Action   = ["s3:GetObject"]
      Resource = ["${local.lease}.board/orders"]
    }],
    [length(var.parameter_arns) > 0, {
      Sid      = "ReadParameters"
      Effect   = "Allow"
      Action   = ["ssm:GetParameters"]
      Resource = var.parameter_arns
    }],
    [length(var.secret_arns) > 0, {
      Sid      = "ReadSecrets"
      Effect   = "Allow"
      Action   = ["secretsmanager:GetSecretValue"]
      Resource = var.secret_arns
    }],
    [length(var.secret_arns) > 1, {
      Sid      = "BatchSecrets"
      Effect   = "Allow"
      Action   = ["secretsmanager:BatchGetSecretValue"]
      Resource = ["*"]
    }],
    [length(local.services) > 0, {
      Sid       = "DecryptThem"
      Effect    = "Allow"
      Action    = ["kms:Decrypt"]
      Resource  = ["arn:${var.partition}:kms:${var.region}:${var.account}:key/*"]
      Condition = { StringLike = { "kms:ViaService" = local.services } }
    }],
  ]

  deployer = [
    [true, {
      Sid      = "PushAndPrune"
      Effect   = "Allow"
      Action   = ["s3:DeleteObject", "s3:GetObject", "s3:PutObject"]
      Resource = ["${var.bucket_arn}/${var.app}/*"]
    }],
    [true, {
      Sid      = "ListReleases"
      Effect   = "Allow"
      Action   = ["s3:ListBucket"]
      Resource = [var.bucket_arn]
    }],
    [true, {
      Sid      = "SeeUse"
      Effect   = "Allow"
      Action   = ["ec2:DescribeImages", "ec2:DescribeInstances"]
      Resource = ["*"]
    }],
    [local.lease_in_s3, {
      Sid      = "ReadNotes"
      Effect   = "Allow"
      Action   = ["s3:GetObject"]
      Resource = [local.lease, "${local.lease}.notes", "${local.lease}.overrides"]
    }],
  ]
}

output "parent" {
  value = jsonencode({ Version = "2012-10-17", Statement = [for each in local.parent : each[1] if each[0]] })
}

output "runner" {
  value = jsonencode({ Version = "2012-10-17", Statement = [for each in local.runner : each[1] if each[0]] })
}

output "deployer" {
  value = jsonencode({ Version = "2012-10-17", Statement = [for each in local.deployer : each[1] if each[0]] })
}
