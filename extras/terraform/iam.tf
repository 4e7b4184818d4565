module "policies" {
  source             = "./policies"
  app                = var.app
  partition          = data.aws_partition.this.partition
  region             = local.region
  account            = data.aws_caller_identity.this.account_id
  bucket_arn         = aws_s3_bucket.this.arn
  image_id           = var.image_id
  subnet_ids         = local.subnet_ids
  security_group_ids = [aws_security_group.runners.id]
  runner_role_arn    = aws_iam_role.runner.arn
  runner_profile_arn = aws_iam_instance_profile.runner.arn
  broker             = var.broker
  parameter_arns     = var.parameter_arns
  secret_arns        = var.secret_arns
}

resource "aws_iam_role" "runner" {
  name_prefix = "${var.app}-runner-"
  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Principal = { Service = "ec2.amazonaws.com" }
      Action    = "sts:AssumeRole"
    }]
  })
}

resource "aws_iam_instance_profile" "runner" {
  name_prefix = "${var.app}-runner-"
  role        = aws_iam_role.runner.name
}

resource "aws_iam_policy" "runner" {
  name_prefix = "${var.app}-runner-"
  policy      = module.policies.runner
}

resource "aws_iam_role_policy_attachment" "runner" {
  role       = aws_iam_role.runner.name
  policy_arn = aws_iam_policy.runner.arn
}

resource "aws_iam_policy" "parent" {
  name_prefix = "${var.app}-parent-"
  policy      = module.policies.parent
}

resource "aws_iam_role_policy_attachment" "parent" {
  count      = length(var.parent_roles)
  role       = var.parent_roles[count.index]
  policy_arn = aws_iam_policy.parent.arn
}

resource "aws_iam_policy" "deployer" {
  name_prefix = "${var.app}-deployer-"
  policy      = module.policies.deployer
}
