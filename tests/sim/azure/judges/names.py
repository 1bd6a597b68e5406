"""The names and ids of everything that is judged."""

from __future__ import annotations

SUB, GROUP, VNET, NIC = "0f3c8f5e-0000-4000-8000-000000000001", "judged", "net", "nic1"
SET, SET_NIC = "pool", "pool-nic"
PROVIDERS = f"/subscriptions/{SUB}/resourceGroups/{GROUP}/providers"
NETWORK = f"{PROVIDERS}/Microsoft.Network"
COMPUTE = f"{PROVIDERS}/Microsoft.Compute"
VNET_ID = f"{NETWORK}/virtualNetworks/{VNET}"
SUBNET_ID = f"{VNET_ID}/subnets/nodes"
NIC_ID = f"{NETWORK}/networkInterfaces/{NIC}"
VM_ID = f"{COMPUTE}/virtualMachines/vm1"
SET_ID = f"{COMPUTE}/virtualMachineScaleSets/{SET}"
PUBLIC_IP_ID = f"{NETWORK}/publicIPAddresses/ip1"
NSG_ID = f"{NETWORK}/networkSecurityGroups/nsg1"
ASG_ID = f"{NETWORK}/applicationSecurityGroups/asg1"
BALANCER = f"{NETWORK}/loadBalancers/lb1"
