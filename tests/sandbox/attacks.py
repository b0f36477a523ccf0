"""Attacks as code for a guest. Each prints "held" where a wall held and "ESCAPED" where it did not, and one of the two
at least once: a case that printed nothing did not attack. `{name}` are filled in by the test.
"""

PRELUDE = """
import ctypes, errno, os, socket, subprocess, sys
libc = ctypes.CDLL(None, use_errno=True)
def attack(action, *values):
    try:
        outcome = action(*values)
    except (OSError, RuntimeError, ValueError, MemoryError) as error:
        print("held:", type(error).__name__, error)
    else:
        print("ESCAPED:", getattr(action, "__name__", action), values, repr(outcome)[:200])
def check(held, what=""):
    print("held:" if held else "ESCAPED:", what)
def call(number, *arguments):
    ctypes.set_errno(0)
    answer = libc.syscall(number, *arguments)
    if answer < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return answer
def everything(path):
    with open(path, "rb") as file:
        return file.read(1 << 20)
"""

SECRETS = {
    "shadow": 'attack(everything, "/etc/shadow")',
    "file-of-the-host": "attack(everything, {canary_file!r})",
    "home": """
if {python_in_home!r}:
    check(len(os.listdir({home!r})) <= 1)
else:
    attack(os.listdir, {home!r})""",
    "environment": 'check("canary-in-the-environment" not in repr(dict(os.environ)))',
    "environment-of-others": """
seen = b""
for pid in filter(str.isdigit, os.listdir("/proc")):
    for name in ("environ", "cmdline"):
        try:
            seen += everything(f"/proc/{{pid}}/{{name}}")
        except OSError:
            pass
check(b"canary-in-the-environment" not in seen and b"pytest" not in seen, seen[:300])""",
    "processes-of-others": 'check(len([pid for pid in os.listdir("/proc") if pid.isdigit()]) <= 3)',
    "process-of-the-host": "attack(os.kill, {host_pid}, 0)",
    "inherited-descriptors": """
links = []
for fd in map(int, os.listdir("/proc/self/fd")):
    try:
        links.append(os.readlink(f"/proc/self/fd/{{fd}}"))
    except OSError:
        pass
sockets = [link for link in links if link.startswith("socket")]
files = [link for link in links if link.startswith("/") and not link.startswith(("/dev/null", "/proc/"))]
check(len(sockets) <= 1 and not files, links)""",
    "devices": """
for name in ("mem", "kmem", "kmsg", "port", "kvm", "fuse", "vsock", "vhost-net", "sda", "vda", "loop-control"):
    attack(everything, f"/dev/{{name}}")""",
    "kernel": """
for name in ("kallsyms", "kcore", "keys", "modules", "cmdline", "config.gz", "iomem", "timer_list", "version"):
    try:
        text = everything(f"/proc/{{name}}")
    except OSError:
        text = b""
    check(text == b"", name)
check(not os.path.exists("/sys/kernel"), "sysfs")""",
    "kernel-log": "attack(call, {syslog}, 3, ctypes.create_string_buffer(4096), 4096)",
    "mounts-name-nothing-private": """
check({canary_file!r}.rsplit("/", 1)[0] not in open("/proc/self/mountinfo").read())""",
    "root-of-the-first-process": """
attack(os.listdir, "/proc/1/root/")
attack(os.listdir, "/proc/1/cwd/../../../..")""",
}

INTEGRITY = {
    "write-outside": """
for folder in ("", "/usr", "/usr/bin", "/etc", "/opt", "/dev", "/mnt", "/proc", {prefix!r} + "/lib"):
    attack(open, folder + "/x", "w")
try:  # below /tmp this folder is the guest's own; the host looks whether it got the file
    open({prefix!r} + "/x", "w")
except OSError:
    pass
attack(open, "/etc/passwd", "a")""",
    "remount": """
for target in (b"/usr", b"/", b"/tmp"):
    if libc.mount(b"none", target, b"tmpfs", 32, None):
        print("held")
    else:
        print("ESCAPED")""",
    "namespaces": """
for flag in (0x10000000, 0x20000, 0x40000000, 0x20000000, 0x04000000, 0x08000000):
    attack(call, {unshare}, flag)
attack(call, {clone3}, ctypes.create_string_buffer(88), 88)""",
    "clone-with-namespaces": "attack(call, {clone}, 0x10000000 | 17, 0, 0, 0, 0)",
    "enter-namespaces": """
for name in ("mnt", "net", "pid", "user"):
    def enter():
        call({setns}, os.open(f"/proc/1/ns/{{name}}", os.O_RDONLY), 0)
    attack(enter)""",
    "root": """
attack(os.setuid, 0)
attack(os.setgid, 0)
attack(os.setgroups, [0])
attack(os.chroot, "/tmp")
status = open("/proc/self/status").read()
for line in ("CapEff:\\t0000000000000000", "CapBnd:\\t0000000000000000", "NoNewPrivs:\\t1", "Seccomp:\\t2"):
    check(line in status, line)""",
    "set-user-id-programs": """
for program in ("su", "mount", "passwd", "newgrp"):
    done = subprocess.run([program, "-c", "id -u"], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    check(done.stdout.strip() != "0", program)""",
    "first-process": """
for name, mode in (("mem", "r+b"), ("mem", "rb"), ("oom_score_adj", "w"), ("environ", "rb")):
    attack(open, f"/proc/1/{{name}}", mode)
attack(call, {ptrace}, 16, 1, 0, 0)
attack(os.kill, 1, 9)""",
    "own-protection": """
def safer():
    with open("/proc/self/oom_score_adj", "w") as file:
        file.write("-1000")
attack(safer)
import resource
attack(resource.setrlimit, resource.RLIMIT_NPROC, (10_000, 10_000))
attack(resource.setrlimit, resource.RLIMIT_AS, (-1, -1))
attack(os.nice, -10)""",
    "kernel-settings": """
for path in ("kernel/core_pattern", "kernel/hostname", "vm/overcommit_memory", "net/ipv4/ip_forward"):
    attack(open, "/proc/sys/" + path, "w")
attack(open, "/proc/sysrq-trigger", "w")""",
    "dangerous-calls": """
for name, number in {forbidden!r}.items():
    try:
        call(number, 0, 0, 0, 0, 0)
        print("ESCAPED", name)
    except OSError as error:
        check(error.errno == errno.EPERM, name)
for name, number in {unknown!r}.items():
    try:
        call(number, 0, 0, 0, 0, 0)
        print("ESCAPED", name)
    except OSError as error:
        check(error.errno == errno.ENOSYS, name)
for number in (463, 470, 500, 600, 10_000):
    try:
        call(number, 0, 0, 0)
        print("ESCAPED", number)
    except OSError as error:
        check(error.errno == errno.ENOSYS, number)""",
    "terminal": """
import fcntl
for request in (0x5412, 0x541C):
    try:
        fcntl.ioctl(0, request, b"x")
        print("ESCAPED")
    except OSError as error:
        check(error.errno == errno.EPERM, request)
attack(open, "/dev/tty", "w")""",
    "parent-death-signal": """
answer = libc.prctl(1, 0, 0, 0, 0)
check(answer == -1 and ctypes.get_errno() in (0, errno.EPERM))""",
    "priority": """
import resource
for policy in (os.SCHED_FIFO, os.SCHED_RR):
    attack(os.sched_setscheduler, 0, policy, os.sched_param(1))
attack(os.setpriority, os.PRIO_PROCESS, 0, 0)
attack(resource.setrlimit, resource.RLIMIT_RTPRIO, (1, 1))
check(os.sched_getscheduler(0) == os.SCHED_OTHER and os.getpriority(os.PRIO_PROCESS, 0) >= 5)""",
    "filter-of-its-own": """
import struct
class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p)]
allow_all = ctypes.create_string_buffer(struct.pack("<HBBI", 6, 0, 0, 0x7FFF0000), 8)
pid = os.fork()
if pid == 0:
    libc.prctl(22, 2, ctypes.byref(Program(1, ctypes.addressof(allow_all))), 0, 0)
    attack(call, {unshare}, 0x10000000)
    attack(call, {ptrace}, 0, 0, 0, 0)
    sys.stdout.flush()
    os._exit(0)
os.waitpid(pid, 0)""",
    "identities": """
for name in ("uid_map", "gid_map", "setgroups"):
    def change():
        with open(f"/proc/self/{{name}}", "w") as file:
            file.write("0 0 1")
    attack(change)""",
    "modules-and-bpf": "attack(call, {bpf}, 0, ctypes.create_string_buffer(128), 128)",
    "device-nodes": """
import stat
attack(os.mknod, "/tmp/disk", stat.S_IFBLK | 0o600, os.makedev(8, 0))
attack(os.mknod, "/mnt/data/memory", stat.S_IFCHR | 0o600, os.makedev(1, 1))""",
}

NETWORK = {
    "tcp": """
for address in (("1.1.1.1", 53), ("127.0.0.1", {port}), ("169.254.169.254", 80)):
    attack(socket.create_connection, address, 1)""",
    "names": 'attack(socket.getaddrinfo, "example.com", 80)',
    "families": """
for family in range(48):
    if family != socket.AF_UNIX:
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW):
            attack(socket.socket, family, kind)
        attack(socket.socketpair, family, socket.SOCK_STREAM)""",
    "unix-sockets-of-the-host": """
for address in ({unix_path!r}, "\\0" + {abstract!r}, "/run/docker.sock", "/run/dbus/system_bus_socket"):
    attack(socket.socket(socket.AF_UNIX).connect, address)""",
    "interfaces": 'check([line.split(":")[0].strip() for line in list(open("/proc/net/dev"))[2:]] == ["lo"])',
    "programs": """
for command in ("curl -m 2 http://1.1.1.1", "ping -c 1 -W 1 127.0.0.1", "ip route add default dev lo"):
    check(subprocess.run(command, shell=True, capture_output=True).returncode != 0, command)""",
}

MEMORY = {
    "hidden-memory": """
attack(os.memfd_create, "x")
attack(call, {shmget}, 1, 1 << 24, 0o1600)
attack(call, {msgget}, 1, 0o1600)
attack(call, {semget}, 1, 1, 0o1600)
attack(call, {mlockall}, 3)""",
    "socket-and-pipe-buffers": """
import fcntl
left, right = socket.socketpair()
for option in (socket.SO_SNDBUF, socket.SO_RCVBUF, 32, 33):
    attack(left.setsockopt, socket.SOL_SOCKET, option, 1 << 24)
attack(fcntl.fcntl, os.pipe()[1], 1031, 1 << 20)""",
    "shared-memory-folder": """
def fill():
    with open("/dev/shm/x", "wb") as file:
        for _ in range(11):
            file.write(bytes(1 << 20))
attack(fill)
os.unlink("/dev/shm/x")""",
    "disk": """
def fill():
    for number in range(4):
        with open(f"/mnt/data/x{{number}}", "wb") as file:
            for _ in range(11):
                file.write(bytes(1 << 20))
attack(fill)
for number in range(4):
    if os.path.exists(f"/mnt/data/x{{number}}"):
        os.unlink(f"/mnt/data/x{{number}}")""",
    "file-size": """
import signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
attack(os.truncate, open("/tmp/sparse", "w").name, 1 << 40)
os.unlink("/tmp/sparse")""",
    "address-space": "attack(bytearray, 8 << 30)",
    "threads": """
import threading
stop = threading.Event()
started = []
def many():
    for _ in range(300):
        thread = threading.Thread(target=stop.wait)
        thread.start()
        started.append(thread)
attack(many)
stop.set()
for thread in started:
    thread.join()""",
    "descriptors": """
held = []
def many():
    while len(held) < 1000:
        held.append(os.open("/dev/null", os.O_RDONLY))
attack(many)
for fd in held:
    os.close(fd)""",
    "forks": """
children = []
def many():
    for _ in range(300):
        pid = os.fork()
        if pid == 0:
            import time
            time.sleep(30)
            os._exit(0)
        children.append(pid)
attack(many)
for pid in children:
    os.kill(pid, 9)
    os.waitpid(pid, 0)""",
}

GROUPS = {"secrets": SECRETS, "integrity": INTEGRITY, "network": NETWORK, "memory": MEMORY}
