"""The monitor: the one long-lived process of a sandbox on the host.

It owns QEMU, virtiofsd, the shared directory, the connection to the agent, and the control socket that commands talk
to. It ends when its last container has, and when it dies so does the virtual machine.

    __main__    entry: the first request, the launch of the machine, and then the heavy imports while the guest boots
    config      what a command tells the monitor about the sandbox to make
    share       the shared directory: what virtiofsd serves to the guest
    helpers     the start of QEMU and virtiofsd
    sandbox     the virtual machine: death and its cause, shutdown
    service     the control socket: requests and their answers
    containers  the containers of the sandbox, and the processes in them
    events      what has happened to a container, for those who follow it
    notify      what a container says to its service manager
    stdio       what flows between the standard streams of the host's caller and those in the guest
"""
