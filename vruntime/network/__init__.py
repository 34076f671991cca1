"""The network of a container: what its network namespace on the host holds is carried into the guest.

In the namespace each interface (veth, macvlan, ipvlan ...) is joined with a tap of the machine, by the traffic control
of both: what arrives at one leaves through the other. The namespace's own network stack sees none of it.
"""
