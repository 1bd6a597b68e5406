/* vpc-cni, which a container runtime starts for each CNI verb: packs what it was given into a frame,
 * sends it to vpc-cnid and copies the answer out. It judges nothing but what has to work while
 * vpc-cnid is away: VERSION, STATUS, and a DEL that is queued. cni_shim/frames.py describes the
 * frames, cni_shim/delete_queue.py the queue. vpc_cni.py is this program again, for hosts without a
 * C compiler; tests/shim holds both to the same behaviour, so change them together.
 * VPC_CNI_RUN_DIR (default /run/vpc-ipamd) is where socket, heartbeat and queue are: a variable, as
 * nodes of the lab share a machine. VPC_CNI_DEADLINE_MS can lower a deadline, never raise it. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "use vpc_cni.py: frames are little endian");
#define VERSION_DOCUMENT "{\"cniVersion\":\"1.1.0\",\"supportedVersions\":" \
    "[\"0.1.0\",\"0.2.0\",\"0.3.0\",\"0.3.1\",\"0.4.0\",\"1.0.0\",\"1.1.0\"]}\n"
#define ID_BYTES "_.-ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
enum { PROTOCOL = 1, HEADER = 24, ANSWER_HEADER = 16, PAUSE_US = 50000, LOCK_MS = 3000, LOOK_MS = 200,
       ENV_LIMIT = 64 << 10, STDIN_LIMIT = 4 << 20, STDOUT_LIMIT = 4 << 20, STDERR_LIMIT = 64 << 10,
       QUEUE_LIMIT = 4096, ID_LIMIT = 200, HEARTBEAT_SECONDS = 60, RUN_LIMIT = 98 /* + "/cni.sock" */ };

/* In ms. deadline: for the whole verb; the runtime holds its locks over STATUS. away: how long to knock
 * while vpc-cnid was not reached yet: an ADD waits for an upgrade, the others have another way out. */
static const struct verb { const char *name; int deadline, away, wants_netns; } verbs[] = {
    {"ADD", 30000, 10000, 1}, {"DEL", 10000, 750, 1}, {"CHECK", 5000, 750, 1},
    {"GC", 30000, 750, 0}, {"STATUS", 60, 0, 0}, {0}}, *verb = verbs;

/* Static and mostly untouched: pages that are never used cost nothing. */
static struct { char magic[4]; uint16_t protocol, flags; uint32_t deadline_ms, netns_errno, env_len,
                stdin_len; char body[ENV_LIMIT + STDIN_LIMIT + 2]; } request;
static struct { char magic[4]; uint16_t protocol, status; uint32_t out_len, err_len;
                char body[STDOUT_LIMIT + STDERR_LIMIT]; } answer;
static const char *run = "/run/vpc-ipamd";
static char config_version[16] = "1.1.0"; /* what an error carries if stdin names no version */
static int netns = -1, runtime; /* the latter: who started us */
static int64_t deadline;

static int64_t now_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static int write_all(int fd, const char *data, size_t len) {
    for (ssize_t n; len > 0; data += n, len -= (size_t)n)
        if ((n = write(fd, data, len)) < 0) return -1;
    return 0;
}

static void finish(int status, const char *out, size_t len) {
    _exit(write_all(1, out, len) == 0 ? status : 1);
}

/* Every error made here: one JSON document. Every libcni reads only code, msg and details of it. What
 * could break the quoting (of a path, a command) is replaced, not escaped. */
static void fail(int code, const char *msg, const char *format, ...) {
    char details[600], out[1000];
    va_list args;
    va_start(args, format);
    vsnprintf(details, sizeof details, format, args);
    for (char *c = details; *c; c++)
        if (*c < 0x20 || *c > 0x7e || *c == '"' || *c == '\\') *c = '?';
    int len = snprintf(out, sizeof out, "{\"cniVersion\": \"%s\", \"code\": %d, \"msg\": \"%s\", "
                       "\"details\": \"%s\"}\n", config_version, code, msg, details);
    finish(1, out, (size_t)len);
}

/* The first "cniVersion" in stdin, if digits and dots follow: libcni sorts keys, so it stands before
 * prevResult's. A wrong find could only mislabel an error, never break its JSON. */
static void find_version(const char *text, size_t len) {
    char version[sizeof config_version], quote = 0;
    const char *at = memmem(text, len, "\"cniVersion\"", 12);
    if (at && sscanf(at, "\"cniVersion\" : \"%15[0-9.]%c", version, &quote) == 2 && quote == '"')
        memcpy(config_version, version, sizeof version);
}

static void pack_env(char **environment) {
    static const char *const kept[] = {"CNI_", "TRACEPARENT=", "TRACESTATE=", "BAGGAGE="};
    for (char *var; (var = *environment); environment++) {
        size_t len = strlen(var) + 1, i = 0;
        while (i < 4 && strncmp(var, kept[i], strlen(kept[i])) != 0) i++;
        if (i == 4 || !strchr(var, '=')) continue;
        if (request.env_len + len > ENV_LIMIT)
            fail(4, "the environment is too long", "CNI variables have more than %d bytes", ENV_LIMIT);
        memcpy(request.body + request.env_len, var, len);
        request.env_len += (uint32_t)len;
    }
}

static void read_stdin(void) {
    char *start = request.body + request.env_len;
    for (ssize_t n = 1; n > 0 && request.stdin_len <= STDIN_LIMIT; request.stdin_len += (uint32_t)n)
        if ((n = read(0, start + request.stdin_len, STDIN_LIMIT + 1 - request.stdin_len)) < 0)
            fail(5, "cannot read the network configuration", "stdin: errno %d", errno);
    find_version(start, request.stdin_len);
    if (request.stdin_len > STDIN_LIMIT)
        fail(6, "the network configuration is too long", "more than %d bytes on stdin", STDIN_LIMIT);
}

/* O_NONBLOCK, which a namespace file ignores: a path that is a FIFO must not hang us. */
static void open_netns(void) {
    const char *path = verb->wants_netns ? getenv("CNI_NETNS") : NULL;
    if (path && *path && (netns = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY)) < 0)
        request.netns_errno = (uint32_t)errno;
}

static size_t pack_header(int has_netns) {
    int64_t left = deadline - now_ms();
    memcpy(request.magic, "VCNI", 4);
    request.protocol = PROTOCOL;
    request.flags = (uint16_t)has_netns;
    request.deadline_ms = left > 0 ? (uint32_t)left : 1;
    return HEADER + request.env_len + request.stdin_len;
}

/* The end without an answer: `error` says why no connection, 0 that the deadline passed on one.
 * STATUS: an upgrade of vpc-cnid must not turn the node NotReady, so only a heartbeat that has been
 * silent for a minute counts as down. Wall time, as file times are. */
static void give_up(int error) {
    char path[RUN_LIMIT + 16];
    struct stat beat;
    snprintf(path, sizeof path, "%s/%s", run, strcmp(verb->name, "STATUS") ? "cni.sock" : "heartbeat");
    if (strcmp(verb->name, "STATUS") == 0) {
        if (stat(path, &beat) == 0 && time(NULL) - beat.st_mtime <= HEARTBEAT_SECONDS) _exit(0);
        fail(50, "vpc-cnid is not running", "%s is absent or older than %d s", path, HEARTBEAT_SECONDS);
    }
    if (error == 0)
        fail(11, "vpc-cnid did not answer in time", "%s waited on %s; see vpc-cnid's log", verb->name, path);
    fail(11, "vpc-cnid is not reachable", "%s: %s (errno %d); check that vpc-cnid runs on this node", path,
         error == ENOENT ? "absent" : error == ECONNREFUSED ? "nobody listens" : "no connection", error);
}

/* Called at every pause. An ADD whose runtime has died ends: nobody takes its answer, and the DEL of the
 * runtime's next life may be over already, after which nothing would ever release the address. */
static void look_around(int is_waiting) {
    if (strcmp(verb->name, "ADD") == 0 && getppid() != runtime) _exit(1);
    if (is_waiting && now_ms() >= deadline) give_up(0);
}

/* Let the kernel end every wait of this socket when it is time to look around, or at the deadline. */
static void bound_waits(int sock) {
    int64_t left = deadline - now_ms();
    struct timeval t = {0, left > LOOK_MS ? LOOK_MS * 1000 : left > 0 ? left * 1000 : 1}; /* 0 is for ever */
    setsockopt(sock, SOL_SOCKET, SO_SNDTIMEO, &t, sizeof t);
    setsockopt(sock, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof t);
}

/* A connected socket, or minus the errno. A full backlog is waited for: somebody is there. */
static int connect_daemon(void) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof address.sun_path, "%s/cni.sock", run);
    int error, sock = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (sock < 0) return -errno;
    for (; bound_waits(sock), connect(sock, (struct sockaddr *)&address, sizeof address) != 0; look_around(1))
        if ((error = errno) != EAGAIN) return close(sock), -error;
    return sock;
}

/* The fd rides on the first byte. A daemon that refuses a frame answers and closes before it has read
 * all, so a broken connection is no end yet: the answer is looked for all the same. */
static void send_request(int sock) {
    union { struct cmsghdr head; char bytes[CMSG_SPACE(sizeof netns)]; } control = {
        .head = {.cmsg_len = CMSG_LEN(sizeof netns), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS}};
    memcpy(CMSG_DATA(&control.head), &netns, sizeof netns);
    for (size_t sent = 0, len = pack_header(netns >= 0); sent < len;) {
        struct iovec block = {(char *)&request + sent, len - sent};
        struct msghdr msg = {.msg_iov = &block, .msg_iovlen = 1};
        if (sent == 0 && netns >= 0) msg.msg_control = &control, msg.msg_controllen = sizeof control;
        bound_waits(sock);
        ssize_t n = sendmsg(sock, &msg, MSG_NOSIGNAL);
        if (n >= 0) sent += (size_t)n;
        else if (errno == EAGAIN) look_around(1);
        else return;
    }
}

/* One request and its answer; returns only if the connection ended before the answer was whole. */
static void exchange(int sock) {
    size_t have = 0, wanted = ANSWER_HEADER;
    send_request(sock);
    for (ssize_t n; have < wanted; have += (size_t)n) {
        bound_waits(sock);
        n = recv(sock, (char *)&answer + have, wanted - have, 0);
        if (n < 0 && errno == EAGAIN) look_around(1), n = 0;
        else if (n <= 0) return;
        if (n == 0 || have + (size_t)n != ANSWER_HEADER) continue;
        if (memcmp(answer.magic, "VCNA", 4) != 0 || answer.protocol != PROTOCOL ||
            answer.status > 255 || answer.out_len > STDOUT_LIMIT || answer.err_len > STDERR_LIMIT)
            fail(answer.protocol == PROTOCOL ? 5 : 11, "vpc-cnid answered in another protocol",
                 "%s/cni.sock speaks %d, vpc-cni %d; install one version", run, answer.protocol, PROTOCOL);
        wanted += answer.out_len + answer.err_len;
    }
    write_all(2, answer.body + answer.out_len, answer.err_len);
    finish(answer.status, answer.body, answer.out_len);
}

static void fail_queue(const char *what, int error) {
    fail(11, "vpc-cnid is away and the DEL cannot be queued", "%s/delete-queue: %s (errno %d)",
         run, what, error);
}

/* The rules of spec.py: the names become a file name, and vpc-cnid is not there to judge them. */
static void name_entry(char *entry, size_t size, const char *id, const char *ifname) {
    if (!id || strlen(id) - 1 >= ID_LIMIT || strchr("_.-", *id) || id[strspn(id, ID_BYTES)])
        fail(4, "CNI_CONTAINERID cannot be used", "%.250s", id ? id : "");
    if (!ifname || strlen(ifname) - 1 >= 15 || strcmp(ifname, ".") == 0 || strcmp(ifname, "..") == 0 ||
        ifname[strcspn(ifname, "/: \t\n\v\f\r")])
        fail(4, "CNI_IFNAME cannot be used", "%.250s", ifname ? ifname : "");
    snprintf(entry, size, "%s,%s", id, ifname);
}

/* Entries have a comma and no leading dot. Launchers that count at once may pass the limit a bit. */
static void check_room(int dir, const char *entry) {
    int entries = 0;
    DIR *listing = fdopendir(dup(dir));
    if (!listing) fail_queue("cannot list", errno);
    for (struct dirent *e; (e = readdir(listing));) {
        if (strcmp(e->d_name, entry) == 0) return; /* replaced, not added */
        entries += e->d_name[0] != '.' && strchr(e->d_name, ',') != NULL;
    }
    if (entries >= QUEUE_LIMIT) fail_queue("full", ENOSPC);
}

static void write_entry(int dir, const char *entry) {
    char temp[ID_LIMIT + 55];
    check_room(dir, entry);
    snprintf(temp, sizeof temp, ".%s.%d.%lld", entry, getpid(), (long long)now_ms());
    int fd = openat(dir, temp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd >= 0 && write_all(fd, (char *)&request, pack_header(0)) == 0 && fsync(fd) == 0 &&
        renameat(dir, temp, dir, entry) == 0 && fsync(dir) == 0) _exit(0);
    int error = errno;
    unlinkat(dir, temp, 0);
    fail_queue("cannot write", error);
}

/* Ends with the DEL durably queued, or returns a socket: a daemon that starts drains the queue and
 * listens under the exclusive lock, so under ours it is either there or will find our entry. */
static int queue_delete(void) {
    char path[RUN_LIMIT + 16], entry[ID_LIMIT + 20];
    snprintf(path, sizeof path, "%s/delete-queue", run);
    name_entry(entry, sizeof entry, getenv("CNI_CONTAINERID"), getenv("CNI_IFNAME"));
    mkdir(path, 0700); /* mostly there already: the daemon makes it */
    int dir = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int lock = dir < 0 ? -1 : openat(dir, "lock", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (lock < 0) fail_queue("cannot open", errno);
    for (int64_t until = now_ms() + LOCK_MS; flock(lock, LOCK_SH | LOCK_NB) != 0; usleep(PAUSE_US))
        if (now_ms() >= until) fail_queue("cannot lock", errno);
    int sock = connect_daemon();
    if (sock < 0) write_entry(dir, entry); /* and end */
    close(lock);
    return sock;
}

/* A connection that ended without an answer means a restart: the request is sent again. */
static void talk(int64_t away_until) {
    for (int is_del = strcmp(verb->name, "DEL") == 0;; usleep(PAUSE_US), look_around(0)) {
        int sock = connect_daemon();
        if (sock < 0 && (now_ms() >= away_until || now_ms() >= deadline)) {
            if (!is_del) give_up(-sock);
            sock = queue_delete();
        }
        if (sock < 0) continue;
        exchange(sock);
        close(sock);
        away_until = is_del ? now_ms() + verb->away : deadline; /* a DEL has the queue instead */
    }
}

int main(void) {
    const char *command = getenv("CNI_COMMAND"), *dir = getenv("VPC_CNI_RUN_DIR");
    const char *limit = getenv("VPC_CNI_DEADLINE_MS");
    runtime = getppid();
    int64_t started = now_ms(), lower_ms = limit ? atoi(limit) : 0;
    for (int fd = 0; fd >= 0 && fd < 3;) fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    signal(SIGPIPE, SIG_IGN);
    if (!command || !*command) _exit(dprintf(2, "vpc-cni: CNI plugin, started by a container runtime\n") < 0);
    if (strcmp(command, "VERSION") == 0) finish(0, VERSION_DOCUMENT, sizeof VERSION_DOCUMENT - 1);
    while (verb->name && strcmp(verb->name, command) != 0) verb++;
    if (!verb->name) fail(4, "CNI_COMMAND is unknown", "%.200s", command);
    if (dir && *dir) run = dir;
    if (strlen(run) > RUN_LIMIT) fail(4, "VPC_CNI_RUN_DIR is too long", "%.200s", run);
    deadline = started + (lower_ms > 0 && lower_ms < verb->deadline ? lower_ms : verb->deadline);
    pack_env(environ);
    read_stdin();
    open_netns();
    talk(started + verb->away);
}
