#!/bin/sh
# Runs inside the freshly debootstrapped root: what the nodes need beyond Debian's packages.
set -eu
export DEBIAN_FRONTEND=noninteractive

# Apptainer is in sid only; everything else stays at the stable release.
cat > /etc/apt/preferences.d/sid <<'PIN'
Package: *
Pin: release n=sid
Pin-Priority: 100
PIN
printf '#!/bin/sh\nexit 101\n' > /usr/sbin/policy-rc.d
chmod 755 /usr/sbin/policy-rc.d
if [ -n "$EXTRA_PACKAGES" ]; then
  apt-get update -qq
  # shellcheck disable=SC2086 # several names
  apt-get install -y -qq --no-install-recommends $EXTRA_PACKAGES
fi
apt-get clean
rm -rf /var/lib/apt/lists/*

groupadd -g 2001 owner
useradd -u 2001 -g owner -s /bin/bash -d /home/owner -M owner
groupadd -g 2002 neighbour
useradd -u 2002 -g neighbour -s /bin/bash -d /home/neighbour -M neighbour
printf 'owner:200000:65536\nneighbour:300000:65536\n' | tee /etc/subuid > /etc/subgid

# Every lab makes its own host key.
rm -f /etc/ssh/ssh_host_*
install -d -o slurm -g slurm /var/lib/slurm/slurmctld /var/log/slurm
install -d /var/lib/slurm/slurmd
echo 'PATH="/opt/hpc-serve/bin:/usr/local/bin:/usr/bin:/bin"' > /etc/environment
