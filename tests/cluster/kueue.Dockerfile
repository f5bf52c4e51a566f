# Kueue's controller alone; the base is there for the C library that Go links to on this host.
ARG BASE_IMAGE
FROM ${BASE_IMAGE}
COPY kueue /manager
USER 65532:65532
ENTRYPOINT ["/manager"]
