output "flame_owner" {
  value = var.app
}

# but for instance_type and env; JSON that is Python as well
output "flame_ec2" {
  value = jsonencode({
    app                  = var.app
    region               = local.region
    s3_bundle_url        = "s3://${aws_s3_bucket.this.id}/${var.app}/1.tar.gz"
    image_id             = var.image_id
    subnet_id            = local.subnet_ids
    security_group_id    = aws_security_group.runners.id
    iam_instance_profile = aws_iam_instance_profile.runner.name
    market               = ["spot", "on-demand"]
  })
}

# what `flame iam-policy --role` wants to know
output "runner_role" {
  value = aws_iam_role.runner.name
}

output "parent_policy_arn" {
  value = aws_iam_policy.parent.arn
}

output "deployer_policy_arn" {
  value = aws_iam_policy.deployer.arn
}
