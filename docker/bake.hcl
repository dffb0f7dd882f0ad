# docker buildx bake -f docker/bake.hcl           the doctor's own image, both platforms
# docker buildx bake -f docker/bake.hcl pytorch   an image with the doctor in it

variable "REGISTRY" {
  default = ""
}

variable "TAG" {
  default = "latest"
}

group "default" {
  targets = ["mldoctor"]
}

target "mldoctor" {
  context    = "."
  dockerfile = "docker/Dockerfile"
  platforms  = ["linux/amd64", "linux/arm64"]
  tags       = ["${REGISTRY}mldoctor:${TAG}"]
}

target "pytorch" {
  context    = "docker/examples"
  dockerfile = "pytorch.Dockerfile"
  target     = "prod"
  contexts = {
    mldoctor = "target:mldoctor"
  }
  tags = ["${REGISTRY}app:${TAG}"]
}
