# shellcheck shell=bash
# Where things are, and how every command here talks. Sourced first by all of them.

CLUSTER=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)   # this folder: tests/cluster
REPOSITORY=$(cd "$CLUSTER/../.." && pwd)
LIB=$CLUSTER/lib
PROGRAM=$(basename "$0")
CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/serin
STATE=${SERIN_STATE:-$CACHE/clusters/default}               # of the cluster in hand; --state sets another
export PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin:/usr/local/go/bin

die() { echo "$PROGRAM: $*" >&2; exit 1; }

# usage FILE: the comment at the head of a command is its help.
usage() { sed -n '2,/^[^#]/{s/^# \{0,1\}//p}' "$1"; }

STARTED=$EPOCHREALTIME
# elapsed: seconds since this command began, such as 3.42
elapsed() {
  local us=$(( ${EPOCHREALTIME/[.,]/} - ${STARTED/[.,]/} ))
  printf '%d.%02d' $(( us / 1000000 )) $(( us % 1000000 / 10000 ))
}
# stage TEXT: one line of progress with the time it was reached
stage() { [ -n "${QUIET:-}" ] || printf '%7ss  %s\n' "$(elapsed)" "$*"; }

# absolute PATH: without asking that it exists
absolute() { case $1 in /*) echo "$1" ;; *) echo "$PWD/$1" ;; esac; }

# with_parent COMMAND...: runs it so that it is killed when this shell dies, however that happens.
with_parent() { setpriv --pdeathsig KILL "$LIB/bound" $BASHPID "$@"; }
# behind_parent COMMAND...: the same for use with &, which makes a subshell of a function: it is replaced.
behind_parent() { exec setpriv --pdeathsig KILL "$LIB/bound" $$ "$@"; }

# running PID: a zombie is not
running() { local state; { read -r _ _ state _ < "/proc/$1/stat"; } 2> /dev/null && [ "$state" != Z ]; }

# built [NAME...]: builds what is missing, and sets BUILT to the folder with links to the programs.
# Read from a pipe, as a shell hears of signals while it reads, but not while it waits for $(...).
built() { read -r BUILT < <(behind_parent "$CLUSTER/build" --folder "$@") || exit 1; }
