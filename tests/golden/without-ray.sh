#!/bin/bash
# TP8×PP2+EP of qwen3 on 2 hosts, with vLLM-Ascend 0.23.0.post1
# On each host: `bash commands.sh HOST`. Without a host it says how, and runs nothing.
# assumed: 192.168.0.147: others reach it at 192.168.0.147, and its interface is enp67s0f5
# assumed: 192.168.0.147: it has the usual files of the driver, and 8 NPUs
# assumed: 192.168.0.35: others reach it at 192.168.0.35, and its interface is enp67s0f5
# assumed: 192.168.0.35: it has the usual files of the driver, and 8 NPUs
# note: not verified on NPU hardware by us
# note: no report of this family with pipeline parallelism: blank in the support matrix (vllm-ascend docs/source/user_guide/support_matrix/supported_models.md)

# a command that fails ends it
set -e

# the programs that containers call, into the folder $1
programs() (
mkdir -p -m 700 -- "$1"
cd -- "$1"
…
)

# on 192.168.0.147
on_192_168_0_147() {
docker image inspect --format '{{.Id}}' quay.io/ascend/vllm-ascend:v0.23.0.post1 >/dev/null 2>&1 || { docker pull quay.io/ascend/vllm-ascend:v0.23.0.post1; }
mkdir -p -m 700 -- /var/lib/ropeway/golden /root/.cache
programs /var/lib/ropeway/golden
cat >/var/lib/ropeway/golden/ropeway-golden-0-0.sh <<'END'
#!/bin/bash
for file in /usr/local/Ascend/ascend-toolkit/set_env.sh /usr/local/Ascend/nnal/atb/set_env.sh; do
  [ ! -r "$file" ] || . "$file"
done
{
vllm serve /data/Qwen3-30B-A3B \
  --served-model-name qwen3 \
  --host 127.0.0.1 \
  --port 8000 \
  --disable-uvicorn-access-log \
  --pipeline-parallel-size 2 \
  --tensor-parallel-size 8 \
  --enable-expert-parallel \
  --distributed-executor-backend mp \
  --nnodes 2 \
  --node-rank 0 \
  --master-addr 192.168.0.147 \
  --master-port 29500 \
  --max-model-len 32768 \
  --gpu-memory-utilization 0.9 &
engine=$!
python3 /run/ropeway/watch.py on http://127.0.0.1:8000/v1 qwen3 30 600 &
watch=$!
trap 'kill -TERM $engine $watch 2>/dev/null' TERM INT
wait -n $engine $watch
}
code=$?
kill -TERM $engine $watch 2>/dev/null
for second in {1..20}; do
  kill -0 $engine $watch 2>/dev/null || break
  sleep 1
done
kill -KILL $engine $watch 2>/dev/null
exit $code
END
chmod 644 /var/lib/ropeway/golden/ropeway-golden-0-0.sh

# the head
docker run \
  --detach \
  --name ropeway-golden-0-0 \
  --net=host \
  --security-opt no-new-privileges \
  --cap-drop=AUDIT_WRITE \
  --cap-drop=MKNOD \
  --cap-drop=NET_BIND_SERVICE \
  --cap-drop=NET_RAW \
  --cap-drop=SETFCAP \
  --cap-drop=SETPCAP \
  --cap-drop=SYS_CHROOT \
  --device /dev/davinci0 \
  --device /dev/davinci1 \
  --device /dev/davinci2 \
  --device /dev/davinci3 \
  --device /dev/davinci4 \
  --device /dev/davinci5 \
  --device /dev/davinci6 \
  --device /dev/davinci7 \
  --device /dev/davinci_manager \
  --device /dev/devmm_svm \
  --device /dev/hisi_hdc \
  --shm-size 68719476736 \
  --ulimit memlock=-1:-1 \
  --ulimit nofile=655350:655350 \
  --mount type=bind,source=/usr/local/dcmi,target=/usr/local/dcmi,readonly \
  --mount type=bind,source=/usr/local/bin/npu-smi,target=/usr/local/bin/npu-smi,readonly \
  --mount type=bind,source=/usr/local/Ascend/driver/lib64,target=/usr/local/Ascend/driver/lib64,readonly \
  --mount type=bind,source=/usr/local/Ascend/driver/version.info,target=/usr/local/Ascend/driver/version.info,readonly \
  --mount type=bind,source=/usr/local/Ascend/driver/tools/hccn_tool,target=/usr/local/Ascend/driver/tools/hccn_tool,readonly \
  --mount type=bind,source=/etc/ascend_install.info,target=/etc/ascend_install.info,readonly \
  --mount type=bind,source=/etc/hccn.conf,target=/etc/hccn.conf,readonly \
  --mount type=bind,source=/root/.cache,target=/root/.cache \
  --mount type=bind,source=/data/Qwen3-30B-A3B,target=/data/Qwen3-30B-A3B,readonly \
  --mount type=bind,source=/var/lib/ropeway/golden,target=/run/ropeway,readonly \
  --env HCCL_IF_IP=192.168.0.147 \
  --env GLOO_SOCKET_IFNAME=enp67s0f5 \
  --env TP_SOCKET_IFNAME=enp67s0f5 \
  --env HCCL_SOCKET_IFNAME=enp67s0f5 \
  --env VLLM_HOST_IP=192.168.0.147 \
  --env HCCL_CONNECT_TIMEOUT=600 \
  --env VLLM_NO_USAGE_STATS=1 \
  --env OMP_PROC_BIND=false \
  --env OMP_NUM_THREADS=1 \
  --label ropeway.service=golden \
  --label ropeway.run=000000000000 \
  --label ropeway.host=192.168.0.147 \
  --label ropeway.role=head \
  --label ropeway.replica=0 \
  --label ropeway.rank=0 \
  --label ropeway.hash=0ff2719672a8697f \
  --label ropeway.url=http://127.0.0.1:8000/v1 \
  --label ropeway.endpoint=http://127.0.0.1:8000/v1 \
  --label ropeway.model=qwen3 \
  --label ropeway.release=0.23.0.post1 \
  --label ropeway.devices=0,1,2,3,4,5,6,7 \
  --label ropeway.folder=/var/lib/ropeway/golden \
  --label ropeway.ports=8000,29500 \
  --label ropeway.by=somebody@laptop \
  --label ropeway.since=2026-01-01T00:00:00Z \
  --label ropeway.version=0.1.0 \
  --label 'ropeway.spec={"name":"golden","cluster":{"hosts":[{"address":"192.168.0.147","npus":8},{"address":"192.168.0.35","npus":8}],"nic":"enp67s0f5","chip":"910B2"},"model":{"path":"/data/Qwen3-30B-A3B","served_name":"qwen3"},"runtime":{"command":"docker","os":"ubuntu","pull":"missing","pip":[],"mounts":[],"privileged":false},"serve":{"version":"0.23.0.post1","layout":"TP8×PP2+EP","replicas":1,"layouts":[],"context":32768,"dtype":"auto","memory":0.9,"address":"127.0.0.1","port":8000,"secret_env":[],"restart":true,"start_timeout":600,"engine_args":{},"env":{}},"workload":{"clients":256,"requests":512,"input_tokens":128,"output_tokens":128,"seed":0,"temperature":0.0}}' \
  --entrypoint bash \
  quay.io/ascend/vllm-ascend:v0.23.0.post1 /run/ropeway/ropeway-golden-0-0.sh
}

# on 192.168.0.35
on_192_168_0_35() {
docker image inspect --format '{{.Id}}' quay.io/ascend/vllm-ascend:v0.23.0.post1 >/dev/null 2>&1 || { docker pull quay.io/ascend/vllm-ascend:v0.23.0.post1; }
mkdir -p -m 700 -- /var/lib/ropeway/golden /root/.cache
programs /var/lib/ropeway/golden
cat >/var/lib/ropeway/golden/ropeway-golden-0-1.sh <<'END'
#!/bin/bash
for file in /usr/local/Ascend/ascend-toolkit/set_env.sh /usr/local/Ascend/nnal/atb/set_env.sh; do
  [ ! -r "$file" ] || . "$file"
done
{
vllm serve /data/Qwen3-30B-A3B \
  --served-model-name qwen3 \
  --disable-uvicorn-access-log \
  --pipeline-parallel-size 2 \
  --tensor-parallel-size 8 \
  --enable-expert-parallel \
  --distributed-executor-backend mp \
  --nnodes 2 \
  --node-rank 1 \
  --master-addr 192.168.0.147 \
  --master-port 29500 \
  --headless \
  --max-model-len 32768 \
  --gpu-memory-utilization 0.9 &
engine=$!
python3 /run/ropeway/peer.py gone 192.168.0.147 29500 600 &
watch=$!
trap 'kill -TERM $engine $watch 2>/dev/null' TERM INT
wait -n $engine $watch
}
code=$?
kill -TERM $engine $watch 2>/dev/null
for second in {1..20}; do
  kill -0 $engine $watch 2>/dev/null || break
  sleep 1
done
kill -KILL $engine $watch 2>/dev/null
exit $code
END
chmod 644 /var/lib/ropeway/golden/ropeway-golden-0-1.sh

# the follower
docker run \
  --detach \
  --name ropeway-golden-0-1 \
  --net=host \
  --security-opt no-new-privileges \
  --cap-drop=AUDIT_WRITE \
  --cap-drop=MKNOD \
  --cap-drop=NET_BIND_SERVICE \
  --cap-drop=NET_RAW \
  --cap-drop=SETFCAP \
  --cap-drop=SETPCAP \
  --cap-drop=SYS_CHROOT \
  --device /dev/davinci0 \
  --device /dev/davinci1 \
  --device /dev/davinci2 \
  --device /dev/davinci3 \
  --device /dev/davinci4 \
  --device /dev/davinci5 \
  --device /dev/davinci6 \
  --device /dev/davinci7 \
  --device /dev/davinci_manager \
  --device /dev/devmm_svm \
  --device /dev/hisi_hdc \
  --shm-size 68719476736 \
  --ulimit memlock=-1:-1 \
  --ulimit nofile=655350:655350 \
  --mount type=bind,source=/usr/local/dcmi,target=/usr/local/dcmi,readonly \
  --mount type=bind,source=/usr/local/bin/npu-smi,target=/usr/local/bin/npu-smi,readonly \
  --mount type=bind,source=/usr/local/Ascend/driver/lib64,target=/usr/local/Ascend/driver/lib64,readonly \
  --mount type=bind,source=/usr/local/Ascend/driver/version.info,target=/usr/local/Ascend/driver/version.info,readonly \
  --mount type=bind,source=/usr/local/Ascend/driver/tools/hccn_tool,target=/usr/local/Ascend/driver/tools/hccn_tool,readonly \
  --mount type=bind,source=/etc/ascend_install.info,target=/etc/ascend_install.info,readonly \
  --mount type=bind,source=/etc/hccn.conf,target=/etc/hccn.conf,readonly \
  --mount type=bind,source=/root/.cache,target=/root/.cache \
  --mount type=bind,source=/data/Qwen3-30B-A3B,target=/data/Qwen3-30B-A3B,readonly \
  --mount type=bind,source=/var/lib/ropeway/golden,target=/run/ropeway,readonly \
  --env HCCL_IF_IP=192.168.0.35 \
  --env GLOO_SOCKET_IFNAME=enp67s0f5 \
  --env TP_SOCKET_IFNAME=enp67s0f5 \
  --env HCCL_SOCKET_IFNAME=enp67s0f5 \
  --env VLLM_HOST_IP=192.168.0.35 \
  --env HCCL_CONNECT_TIMEOUT=600 \
  --env VLLM_NO_USAGE_STATS=1 \
  --env OMP_PROC_BIND=false \
  --env OMP_NUM_THREADS=1 \
  --label ropeway.service=golden \
  --label ropeway.run=000000000000 \
  --label ropeway.host=192.168.0.35 \
  --label ropeway.role=follower \
  --label ropeway.replica=0 \
  --label ropeway.rank=1 \
  --label ropeway.hash=6747a516da0d831c \
  --label ropeway.url=http://127.0.0.1:8000/v1 \
  --label ropeway.endpoint=http://127.0.0.1:8000/v1 \
  --label ropeway.model=qwen3 \
  --label ropeway.release=0.23.0.post1 \
  --label ropeway.devices=0,1,2,3,4,5,6,7 \
  --label ropeway.folder=/var/lib/ropeway/golden \
  --label ropeway.ports= \
  --label ropeway.by=somebody@laptop \
  --label ropeway.since=2026-01-01T00:00:00Z \
  --label ropeway.version=0.1.0 \
  --label 'ropeway.spec={"name":"golden","cluster":{"hosts":[{"address":"192.168.0.147","npus":8},{"address":"192.168.0.35","npus":8}],"nic":"enp67s0f5","chip":"910B2"},"model":{"path":"/data/Qwen3-30B-A3B","served_name":"qwen3"},"runtime":{"command":"docker","os":"ubuntu","pull":"missing","pip":[],"mounts":[],"privileged":false},"serve":{"version":"0.23.0.post1","layout":"TP8×PP2+EP","replicas":1,"layouts":[],"context":32768,"dtype":"auto","memory":0.9,"address":"127.0.0.1","port":8000,"secret_env":[],"restart":true,"start_timeout":600,"engine_args":{},"env":{}},"workload":{"clients":256,"requests":512,"input_tokens":128,"output_tokens":128,"seed":0,"temperature":0.0}}' \
  --entrypoint bash \
  quay.io/ascend/vllm-ascend:v0.23.0.post1 /run/ropeway/ropeway-golden-0-1.sh
}

# which part to run
case "${1-}" in
  192.168.0.147) on_192_168_0_147;;
  192.168.0.35) on_192_168_0_35;;
  *)
cat >&2 <<'END'
this script has a part for each host; copy it there, and run its part:
  bash commands.sh 192.168.0.147
  bash commands.sh 192.168.0.35
the service is up when the head's log says `ropeway: the first token is there`:
  docker logs --timestamps --follow ropeway-golden-0-0   # on 192.168.0.147
have the container engine restart it from then on:
  docker update --restart unless-stopped ropeway-golden-0-0   # on 192.168.0.147
  docker update --restart unless-stopped ropeway-golden-0-1   # on 192.168.0.35
END
exit 2;;
esac
