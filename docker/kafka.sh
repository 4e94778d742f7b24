#!/usr/bin/env bash
# One Kafka node in KRaft mode: formats its data folder the first time, then runs until it is stopped.
set -euo pipefail
java=(java -XX:+UseG1GC "-Xmx${KAFKA_HEAP:-768m}" -Dorg.apache.logging.log4j.level=INFO -cp '/opt/kafka/libs/*')
if [ ! -f /var/lib/kafka/data/meta.properties ]; then
    id=$(head -c 16 /dev/urandom | base64 | tr '+/' 'xy' | tr -d '=')
    "${java[@]}" kafka.tools.StorageTool format --cluster-id "$id" --config /opt/kafka/kafka.properties
fi
exec "${java[@]}" kafka.Kafka /opt/kafka/kafka.properties \
    --override "advertised.listeners=INSIDE://$KAFKA_INSIDE,OUTSIDE://$KAFKA_OUTSIDE"
