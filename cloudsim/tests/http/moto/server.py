"""moto, whose addresses are counted instead of drawn by lot: a real subnet never has one twice, and moto's draws had.

Listens on a port that the kernel chose, says it on standard output, and ends with its standard input: with the test, however that ends.
"""

import itertools
import logging
import sys
from ipaddress import IPv4Network

import moto.ec2.models
from moto.ec2 import utils
from moto.moto_api._internal import mock_random
from moto.server import ThreadedMotoServer

drawn = utils.random_private_ip
# From the subnet's last host downwards: instances get theirs from its first upwards.
counted = itertools.count(2)


def private_ip(cidr=None, ipv6=False):
    if cidr is None or ipv6:
        return drawn(cidr, ipv6)
    return str(IPv4Network(cidr)[-next(counted)])


users = [module for module in list(sys.modules.values()) if getattr(module, "random_private_ip", None) is drawn]
assert moto.ec2.models.elastic_network_interfaces in users, "moto no longer draws addresses by random_private_ip"
for module in users:
    module.random_private_ip = private_ip

# Identifiers and MAC addresses are those of every other run.
mock_random.seed(1)

# One line a request is too much.
logging.getLogger("werkzeug").setLevel(logging.ERROR)
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
