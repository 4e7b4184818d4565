# where runners are

resource "aws_subnet" "runners" {
  for_each          = var.subnets
  vpc_id            = var.vpc_id
  availability_zone = each.key
  cidr_block        = each.value
  tags              = { Name = "${var.app} runners" }
}

resource "aws_route_table" "runners" {
  vpc_id = var.vpc_id
  tags   = { Name = "${var.app} runners" }
}

resource "aws_route_table_association" "runners" {
  for_each       = aws_subnet.runners
  subnet_id      = each.value.id
  route_table_id = aws_route_table.runners.id
}

resource "aws_route" "out" {
  count                  = var.nat_gateway == null ? 0 : 1
  route_table_id         = aws_route_table.runners.id
  destination_cidr_block = "0.0.0.0/0"
  nat_gateway_id         = var.nat_gateway.id
}

resource "aws_security_group" "runners" {
  name_prefix = "${var.app}-runners-"
  description = "Runners go out, and nobody comes in"
  vpc_id      = var.vpc_id
  egress {
    description = "what tasks need"
    protocol    = "-1"
    from_port   = 0
    to_port     = 0
    cidr_blocks = ["0.0.0.0/0"]
  }
  tags = { Name = "${var.app} runners" }
}

resource "aws_vpc_security_group_ingress_rule" "broker" {
  count                        = length(var.broker_security_group_ids)
  security_group_id            = var.broker_security_group_ids[count.index]
  description                  = "runners"
  ip_protocol                  = "tcp"
  from_port                    = var.broker_port
  to_port                      = var.broker_port
  referenced_security_group_id = aws_security_group.runners.id
}

# the ways to AWS's services that need no internet

locals {
  interfaces = var.nat_gateway == null && var.endpoints ? toset(concat(
    length(var.parameter_arns) > 0 ? ["ssm"] : [],
    length(var.secret_arns) > 0 ? ["secretsmanager"] : [],
    var.broker == "sqs" ? ["sqs"] : [],
  )) : toset([])
}

resource "aws_vpc_endpoint" "s3" {
  vpc_id            = var.vpc_id
  service_name      = "com.amazonaws.${local.region}.s3"
  vpc_endpoint_type = "Gateway"
  route_table_ids   = [aws_route_table.runners.id]
}

resource "aws_security_group" "endpoints" {
  count       = length(local.interfaces) > 0 ? 1 : 0
  name_prefix = "${var.app}-endpoints-"
  description = "Endpoints that the VPC asks for AWS services"
  vpc_id      = var.vpc_id
  # Its private name is the whole VPC's: whoever asks for the service there comes by the endpoint.
  ingress {
    description = "the VPC"
    protocol    = "tcp"
    from_port   = 443
    to_port     = 443
    cidr_blocks = [data.aws_vpc.this.cidr_block]
  }
  tags = { Name = "${var.app} endpoints" }
}

resource "aws_vpc_endpoint" "interfaces" {
  for_each            = local.interfaces
  vpc_id              = var.vpc_id
  service_name        = "com.amazonaws.${local.region}.${each.key}"
  vpc_endpoint_type   = "Interface"
  private_dns_enabled = true
  subnet_ids          = local.subnet_ids
  security_group_ids  = [aws_security_group.endpoints[0].id]
}
