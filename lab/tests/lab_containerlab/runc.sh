#!/bin/sh
# runc for a machine that withholds CAP_SYS_RESOURCE, as nested machines do. Docker gives a privileged container every capability that
# it knows, and runc refuses to start one with a capability that it does not have itself.
set -eu
previous=
for word in "$@"; do
	case $previous in
	--bundle) sed -i 's/"CAP_SYS_RESOURCE",//g' "$word/config.json" ;;
	--process) sed -i 's/"CAP_SYS_RESOURCE",//g' "$word" ;;
	esac
	previous=$word
done
exec runc "$@"
