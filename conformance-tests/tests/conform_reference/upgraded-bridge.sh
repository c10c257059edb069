#!/bin/sh
# The reference bridge, taught CNI 1.1.0 and freed of what known/reference-bridge.toml lists, a prevResult for ADD aside.
# With @FAULT@ it breaks one requirement: the suite must see which. The test fills in what stands between at-signs.
state='@STATE@' fault='@FAULT@' bridge=/usr/lib/cni/bridge
conf=$(cat)
version=$(printf %s "$conf" | sed -n 's/.*"cniVersion": *"\([^"]*\)".*/\1/p' | head -n 1)

bridge() { # Speaks the version that it knows, and is told nothing that its DEL does not need.
    needed='' arguments=$CNI_ARGS
    test "$1" = DEL && test "$fault" != reads-prev-result && needed='s/"prevResult":.*,"type":/"type":/'
    test "$1" = DEL && test "$fault" != reads-arguments && arguments=''
    printf %s "$conf" | sed "s/\"1\.1\.0\"/\"1.0.0\"/g; $needed" | CNI_ARGS=$arguments CNI_COMMAND=$1 "$bridge"
}
refuse() { # code, message
    printf '{"cniVersion":"%s","code":%s,"msg":"%s"}\n' "$version" "$1" "$2"
    exit 1
}
answer() { # Prints the bridge's answer in the version that was asked for, and ends with its exit status.
    case $code in
    0) out=$(printf %s "$out" | sed "s/\"cniVersion\": *\"1.0.0\"/\"cniVersion\":\"$version\"/") ;;
    *) out=$(printf %s "$out" | sed "1s/{/{\"cniVersion\":\"$version\",/; s/\"interface name/\"CNI_IFNAME: interface name/") ;;
    esac
    case $fault in
    wrong-address) out=$(printf %s "$out" | sed 's/"address": *"[^"]*"/"address":"10.77.0.30\/27"/') ;;
    wrong-mac) out=$(printf %s "$out" | sed 's/"mac": *"[^"]*"/"mac":"02:02:02:02:02:02"/') ;;
    wrong-sandbox) out=$(printf %s "$out" | sed 's/"sandbox": *"[^"]*"/"sandbox":"\/run\/netns\/a"/') ;;
    wrong-route) out=$(printf %s "$out" | sed 's/"dst": *"[^"]*"/"dst":"203.0.113.0\/24"/') ;;
    wrong-type) out=$(printf %s "$out" | sed 's/"gateway": *"[^"]*"/"gateway":1/') ;;
    wrong-version) out=$(printf %s "$out" | sed 's/"cniVersion":"[^"]*"/"cniVersion":"0.2.0"/') ;;
    wrong-code) out=$(printf %s "$out" | sed 's/"code": *4,/"code":104,/') ;;
    reserved-code) out=$(printf %s "$out" | sed 's/"code": *999,/"code":42,/') ;;
    exits-0) code=0 ;;
    chatty) echo starting ;;
    hangs) sleep 15 ;;
    leaves-things) test "$code" = 0 || nsenter --net="$CNI_NETNS" ip link add left type veth peer name behind ;;
    takes-over) test "$code" = 0 || nsenter --net="$CNI_NETNS" ip link set eth0 up ;;
    esac
    printf '%s\n' "$out"
    exit "$code"
}

attachment="$state/$CNI_CONTAINERID@$CNI_IFNAME"
case $fault$conf in
wants-lists*'"ips":null'* | wants-prev-result*'"prevResult":null'*) refuse 7 "it is null" ;;
knows-all-keys*conformUnknownKey*) refuse 7 "conformUnknownKey is unknown" ;;
esac
case $CNI_COMMAND in
"") refuse 4 "CNI_COMMAND is not set" ;;
VERSION)
    test "$fault" = old-version && version=1.0.0
    printf '{"cniVersion":"%s","supportedVersions":["0.3.1","0.4.0","1.0.0","1.1.0"]}\n' "$version"
    ;;
STATUS)
    test "$fault" = says-ready && echo ready
    test "$fault" = never-ready && refuse 50 "not ready"
    exit 0
    ;;
ADD)
    out=$(bridge ADD)
    code=$?
    test "$code" = 0 && printf %s "$CNI_NETNS" >"$attachment"
    answer
    ;;
CHECK)
    test "$fault" = blind && exit 0
    test "$fault" = talks && echo fine
    out=$(bridge CHECK)
    code=$?
    test "$code" = 0 || answer
    ;;
DEL)
    test "$fault" = keeps-interface && exit 0
    test "$fault" = fails-second-del && ! test -e "$attachment" && refuse 3 "unknown container"
    test "$fault" = needs-netns && ! test -e "$CNI_NETNS" && refuse 4 "CNI_NETNS is gone"
    test "$fault" = deletes-all && for other in "$state"/*; do
        test -e "$other" && nsenter --net="$(cat "$other")" ip link delete eth0
    done
    test "$fault" = leaks-address && CNI_CONTAINERID=another
    out=$(bridge DEL)
    code=$?
    test "$code" = 0 || answer
    rm -f "$attachment"
    ;;
GC)
    case $conf in
    *'"cni.dev/valid-attachments":['*) ;;
    *) test "$fault" = missing-is-empty || refuse 7 "no list of valid attachments" ;;
    esac
    test "$fault" = collects-nothing && exit 0
    for attachment in "$state"/*; do
        test -e "$attachment" || continue
        name=${attachment##*/}
        CNI_CONTAINERID=${name%@*} CNI_IFNAME=${name#*@} CNI_NETNS=$(cat "$attachment")
        export CNI_CONTAINERID CNI_IFNAME CNI_NETNS
        valid="{\"containerID\":\"$CNI_CONTAINERID\",\"ifname\":\"$CNI_IFNAME\"}"
        test "$fault" = ignores-interface && valid="\"containerID\":\"$CNI_CONTAINERID\""
        test "$fault" = collects-all && valid=nothing
        case $conf in *"$valid"*) continue ;; esac
        bridge DEL >&2 && rm -f "$attachment"
    done
    ;;
*) refuse 4 "CNI_COMMAND $CNI_COMMAND is unknown" ;;
esac
