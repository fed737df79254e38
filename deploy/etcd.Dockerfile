# etcd in an image of its own, from the binary that this machine has (Debian's etcd-server), for
# `deploy/compose.yaml`. Where images can be pulled, any of etcd 3.4 or newer does as well.
ARG BASE=scratch
FROM ${BASE}
COPY root/ /
COPY --chown=65532:65532 home/ /var/lib/etcd/
USER 65532:65532
ENV ETCD_DATA_DIR=/var/lib/etcd
EXPOSE 2379 2380
ENTRYPOINT ["/usr/local/bin/etcd"]
