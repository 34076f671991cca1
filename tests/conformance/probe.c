/* What a process finds in its container: answers questions, one JSON pair ["question", "answer"] a line.
 *
 * The questions are the arguments after "--ask", or else the lines of /questions. Their first word names one of the
 * functions of the table at the end; what cannot be done is answered by the name of its errno.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/keyctl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { LONGEST = 1 << 18, MOST_WORDS = 10 };

static char answer[LONGEST];
static char **arguments, **environment;

static void say(const char *format, ...) {
    size_t used = strlen(answer);
    va_list values;
    va_start(values, format);
    vsnprintf(answer + used, sizeof answer - used, format, values);
    va_end(values);
}

static void say_outcome(int failed) {
    say("%s", failed ? strerrorname_np(errno) : "ok");
}

static void say_list(char **entries) {
    for (int i = 0; entries[i]; i++)
        say("%s%s", i ? "|" : "", entries[i]);
}

/* A file as text without its last line's end, or NULL. */
static char *content(const char *path) {
    static char text[LONGEST];
    int file = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (file < 0)
        return NULL;
    size_t used = 0;
    ssize_t got;
    while ((got = read(file, text + used, sizeof text - 1 - used)) > 0)
        used += got;
    int error = errno;
    close(file);
    errno = error;
    if (got < 0)
        return NULL;
    text[used] = 0;
    if (used && text[used - 1] == '\n')
        text[used - 1] = 0;
    return text;
}

/* --- The process ------------------------------------------------------------------------------------------------- */

static void ask_argv(char **words) {
    say_list(arguments);
}

static void ask_env(char **words) {
    if (words[1])
        say("%s", getenv(words[1]) ? getenv(words[1]) : "unset");
    else
        say_list(environment);
}

static void ask_cwd(char **words) {
    char path[PATH_MAX];
    say("%s", getcwd(path, sizeof path) ? path : strerrorname_np(errno));
}

/* A field of /proc/self/status, its white space made single spaces. */
static void ask_status(char **words) {
    char *line = content("/proc/self/status"), *end;
    if (!line) {
        say_outcome(1);
        return;
    }
    for (; line; line = end) {
        if ((end = strchr(line, '\n')))
            *end++ = 0;
        size_t length = strlen(words[1]);
        if (strncmp(line, words[1], length) || line[length] != ':')
            continue;
        int count = 0;
        for (char *word = strtok(line + length + 1, " \t"); word; word = strtok(NULL, " \t"))
            say("%s%s", count++ ? " " : "", word);
        return;
    }
    say("absent");
}

static void ask_rlimit(char **words) {
    static const char *const names[] = {"CPU",     "FSIZE", "DATA",  "STACK",      "CORE",     "RSS",  "NPROC",  "NOFILE",
                                        "MEMLOCK", "AS",    "LOCKS", "SIGPENDING", "MSGQUEUE", "NICE", "RTPRIO", "RTTIME"};
    struct rlimit limit;
    for (int i = 0; i < 16; i++)
        if (!strcmp(words[1], names[i]) && !getrlimit(i, &limit)) {
            rlim_t values[] = {limit.rlim_cur, limit.rlim_max};
            for (int j = 0; j < 2; j++)
                if (values[j] == RLIM_INFINITY)
                    say("%sunlimited", j ? " " : "");
                else
                    say("%s%llu", j ? " " : "", (unsigned long long)values[j]);
        }
}

static void ask_uname(char **words) {
    struct utsname name;
    uname(&name);
    say("%s", !strcmp(words[1], "domainname") ? name.domainname : !strcmp(words[1], "machine") ? name.machine : name.nodename);
}

/* Policy, nice, priority, flags, runtime, deadline, period. */
static void ask_scheduler(char **words) {
    struct {
        uint32_t size, policy;
        uint64_t flags;
        int32_t nice;
        uint32_t priority;
        uint64_t runtime, deadline, period;
    } set = {0};
    if (syscall(SYS_sched_getattr, 0, &set, sizeof set, 0)) {
        say_outcome(1);
        return;
    }
    static const char *const policies[] = {"OTHER", "FIFO", "RR", "BATCH", "ISO", "IDLE", "DEADLINE"};
    say("%s nice=%d priority=%u flags=%llu", policies[set.policy], set.nice, set.priority, (unsigned long long)set.flags);
    if (set.policy == 6)
        say(" %llu/%llu/%llu", (unsigned long long)set.runtime, (unsigned long long)set.deadline,
            (unsigned long long)set.period);
}

static void ask_ioprio(char **words) {
    static const char *const classes[] = {"none", "rt", "be", "idle"};
    long value = syscall(SYS_ioprio_get, 1, 0);
    if (value < 0)
        say_outcome(1);
    else
        say("%s %ld", classes[value >> 13 & 3], value & 0x1fff);
}

static void ask_affinity(char **words) {
    cpu_set_t set;
    sched_getaffinity(0, sizeof set, &set);
    for (int i = 0, count = 0; i < CPU_SETSIZE; i++)
        if (CPU_ISSET(i, &set))
            say("%s%d", count++ ? "," : "", i);
}

static void ask_personality(char **words) {
    say("%x", personality(0xffffffff));
}

static void ask_dumpable(char **words) {
    say("%d", prctl(PR_GET_DUMPABLE));
}

static void ask_securebits(char **words) {
    say("%d", prctl(PR_GET_SECUREBITS));
}

/* The name of the session keyring. */
static void ask_keyring(char **words) {
    char text[200];
    long length = syscall(SYS_keyctl, KEYCTL_DESCRIBE, KEY_SPEC_SESSION_KEYRING, text, sizeof text);
    say("%s", length < 0 ? strerrorname_np(errno) : strrchr(text, ';') + 1);
}

static void ask_ids(char **words) {
    say("pid=%d ppid=%d leader=%d", getpid(), getppid(), getsid(0) == getpid());
}

static void ask_open_files(char **words) {
    for (int i = 0, count = 0; i < 256; i++)
        if (fcntl(i, F_GETFD) >= 0)
            say("%s%d", count++ ? " " : "", i);
}

/* Rows and columns of the terminal at standard input, once whoever started this has set them. */
static void ask_terminal(char **words) {
    struct winsize size;
    int failed;
    for (int i = 0; !(failed = ioctl(0, TIOCGWINSZ, &size)) && !size.ws_row && i < 300; i++)
        usleep(10000);
    if (failed)
        say_outcome(1);
    else
        say("%d rows, %d columns", size.ws_row, size.ws_col);
}

static void ask_namespace(char **words) {
    char path[40], target[60] = "";
    snprintf(path, sizeof path, "/proc/self/ns/%s", words[1]);
    if (readlink(path, target, sizeof target - 1) < 0)
        say_outcome(1);
    else
        say("%s", target);
}

/* Seconds of a clock, in this time namespace. */
static void ask_clock(char **words) {
    struct timespec time;
    clock_gettime(!strcmp(words[1], "boottime") ? CLOCK_BOOTTIME : CLOCK_MONOTONIC, &time);
    say("%ld", time.tv_sec);
}

/* --- Files ------------------------------------------------------------------------------------------------------- */

static void ask_read(char **words) {
    char *text = content(words[1]);
    say("%s", text ? text : strerrorname_np(errno));
}

static void ask_stat(char **words) {
    struct stat status;
    if (lstat(words[1], &status)) {
        say_outcome(1);
        return;
    }
    static const char kinds[] = "?pc?d?b?-?l?s???";
    say("%c %o %u:%u", kinds[status.st_mode >> 12], status.st_mode & 07777, status.st_uid, status.st_gid);
    if (S_ISCHR(status.st_mode) || S_ISBLK(status.st_mode))
        say(" %u:%u", major(status.st_rdev), minor(status.st_rdev));
}

static void ask_link(char **words) {
    char target[PATH_MAX];
    ssize_t length = readlink(words[1], target, sizeof target);
    if (length < 0)
        say_outcome(1);
    else
        say("%.*s", (int)length, target);
}

static int is_entry(const struct dirent *entry) {
    return strcmp(entry->d_name, ".") && strcmp(entry->d_name, "..");
}

static void ask_list(char **words) {
    struct dirent **entries;
    int count = scandir(words[1], &entries, is_entry, alphasort);
    if (count < 0)
        say_outcome(1);
    for (int i = 0; i < count; i++)
        say("%s%s", i ? " " : "", entries[i]->d_name);
}

/* open MODE PATH, MODE being r, w or rw. */
static void ask_open(char **words) {
    int mode = !strcmp(words[1], "r") ? O_RDONLY : !strcmp(words[1], "w") ? O_WRONLY : O_RDWR;
    int file = open(words[2], mode | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    say_outcome(file < 0);
    if (file >= 0)
        close(file);
}

/* Whether a file can be made here. */
static void ask_make(char **words) {
    int file = open(words[1], O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    say_outcome(file < 0);
    if (file >= 0) {
        close(file);
        unlink(words[1]);
    }
}

static void ask_write(char **words) {
    int file = open(words[1], O_WRONLY | O_CLOEXEC | O_NOCTTY);
    say_outcome(file < 0 || write(file, words[2], strlen(words[2])) < 0);
    if (file >= 0)
        close(file);
}

/* mknod TYPE MAJOR MINOR PATH */
static void ask_mknod(char **words) {
    mode_t type = *words[1] == 'b' ? S_IFBLK : *words[1] == 'p' ? S_IFIFO : S_IFCHR;
    say_outcome(mknod(words[4], type | 0600, makedev(atoi(words[2]), atoi(words[3]))));
}

/* How many KiB can be written into a new file here. */
static void ask_fill(char **words) {
    static const char block[1024];
    int file = open(words[1], O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666), count = 0;
    while (count < 1 << 16 && write(file, block, sizeof block) == sizeof block)
        count++;
    say("%d %s", count, strerrorname_np(errno));
    close(file);
    unlink(words[1]);
}

/* The mount on top at a path: source root, attributes, propagation, type, source, options of the file system. */
static void ask_mount(char **words) {
    char *line = content("/proc/self/mountinfo"), *end, found[4096] = "none";
    for (; line; line = end) {
        if ((end = strchr(line, '\n')))
            *end++ = 0;
        char at[1024];
        if (sscanf(line, "%*s %*s %*s %*s %1023s", at) == 1 && !strcmp(at, words[1]))
            snprintf(found, sizeof found, "%s", line);
    }
    say("%s", found);
}

/* How many mounts are at a path. */
static void ask_mounts(char **words) {
    char *line = content("/proc/self/mountinfo"), *end;
    int count = 0;
    for (; line; line = end) {
        if ((end = strchr(line, '\n')))
            *end++ = 0;
        char at[1024];
        count += sscanf(line, "%*s %*s %*s %*s %1023s", at) == 1 && !strcmp(at, words[1]);
    }
    say("%d", count);
}

/* --- System calls ------------------------------------------------------------------------------------------------ */

static void trapped(int number) {
    _exit(200);
}

/* What becomes of a child that does something: it ends with 0, with an errno, trapped, or by a signal. */
static void say_fate(pid_t child) {
    int status;
    waitpid(child, &status, 0);
    if (WIFSIGNALED(status))
        say("SIG%s", sigabbrev_np(WTERMSIG(status)));
    else if (WEXITSTATUS(status) == 200)
        say("trapped");
    else if (WEXITSTATUS(status))
        say("%s", strerrorname_np(WEXITSTATUS(status)) ?: "?");
    else
        say("ok");
}

static pid_t child(void) {
    pid_t pid = fork();
    if (!pid) {
        struct rlimit none = {0};
        setrlimit(RLIMIT_CORE, &none);
        signal(SIGSYS, trapped);
    }
    return pid;
}

/* call NUMBER ARGUMENT...: a system call as the 64-bit interface has it. */
static void ask_call(char **words) {
    long values[7] = {0};
    for (int i = 0; i < 7 && words[i + 1]; i++)
        values[i] = strtol(words[i + 1], NULL, 0);
    pid_t pid = child();
    if (!pid)
        _exit(syscall(values[0], values[1], values[2], values[3], values[4], values[5], values[6]) == -1 ? errno : 0);
    say_fate(pid);
}

/* call32 NUMBER ARGUMENT...: as the 32-bit interface has it. */
static void ask_call32(char **words) {
    int values[4] = {0}, result;
    for (int i = 0; i < 4 && words[i + 1]; i++)
        values[i] = strtol(words[i + 1], NULL, 0);
    pid_t pid = child();
    if (!pid) {
        __asm__ volatile("int $0x80"
                         : "=a"(result)
                         : "0"(values[0]), "b"(values[1]), "c"(values[2]), "d"(values[3])
                         : "memory", "r8", "r9", "r10", "r11");
        _exit(result < 0 ? -result : 0);
    }
    say_fate(pid);
}

static void *call_in_thread(void *number) {
    syscall(*(long *)number, 0, 0, 0, 0, 0, 0);
    *(long *)number = 0;
    return NULL;
}

/* thread NUMBER: whether a thread survives a system call, if its process does. */
static void ask_thread(char **words) {
    pid_t pid = child();
    if (!pid) {
        static long number;
        number = strtol(words[1], NULL, 0);
        pthread_t thread;
        pthread_create(&thread, NULL, call_in_thread, &number);
        pthread_join(thread, NULL);
        _exit(number ? ESRCH : 0);
    }
    say_fate(pid);
}

/* exec PATH: what becomes of a child that executes this program without arguments. */
static void ask_exec(char **words) {
    pid_t pid = child();
    if (!pid) {
        execl(words[1], words[1], NULL);
        _exit(errno);
    }
    say_fate(pid);
}

/* raise NUMBER: what ends this process, unless the signal is ignored. */
static void ask_raise(char **words) {
    say_outcome(raise(atoi(words[1])));
}

static const struct {
    const char *name;
    void (*answer)(char **words);
} table[] = {
    {"argv", ask_argv},
    {"env", ask_env},
    {"cwd", ask_cwd},
    {"status", ask_status},
    {"rlimit", ask_rlimit},
    {"uname", ask_uname},
    {"scheduler", ask_scheduler},
    {"ioprio", ask_ioprio},
    {"affinity", ask_affinity},
    {"personality", ask_personality},
    {"dumpable", ask_dumpable},
    {"securebits", ask_securebits},
    {"keyring", ask_keyring},
    {"ids", ask_ids},
    {"open-files", ask_open_files},
    {"terminal", ask_terminal},
    {"namespace", ask_namespace},
    {"clock", ask_clock},
    {"read", ask_read},
    {"stat", ask_stat},
    {"link", ask_link},
    {"list", ask_list},
    {"open", ask_open},
    {"make", ask_make},
    {"write", ask_write},
    {"mknod", ask_mknod},
    {"fill", ask_fill},
    {"mount", ask_mount},
    {"mounts", ask_mounts},
    {"call", ask_call},
    {"call32", ask_call32},
    {"thread", ask_thread},
    {"exec", ask_exec},
    {"raise", ask_raise},
};

static void print_string(const char *string) {
    putchar('"');
    for (const unsigned char *text = (const unsigned char *)string; *text; text++)
        if (*text == '"' || *text == '\\')
            printf("\\%c", *text);
        else if (*text < ' ')
            printf("\\u%04x", *text);
        else
            putchar(*text);
    putchar('"');
}

static void reply(const char *question) {
    char text[4096], *words[MOST_WORDS + 1] = {0};
    snprintf(text, sizeof text, "%s", question);
    int count = 0;
    for (char *word = strtok(text, " "); word && count < MOST_WORDS; word = strtok(NULL, " "))
        words[count++] = word;
    answer[0] = 0;
    int known = 0;
    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        if (count && !strcmp(words[0], table[i].name)) {
            table[i].answer(words);
            known = 1;
        }
    if (!known)
        say("unknown question");
    putchar('[');
    print_string(question);
    putchar(',');
    print_string(answer);
    puts("]");
    fflush(stdout);
}

int main(int argc, char **argv, char **envp) {
    arguments = argv, environment = envp;
    setvbuf(stdout, NULL, _IOFBF, LONGEST);
    if (argc > 1 && !strcmp(argv[1], "--ask")) {
        for (int i = 2; i < argc; i++)
            reply(argv[i]);
        return 0;
    }
    static char questions[LONGEST];
    char *text = content("/questions"), *place;
    if (!text) {
        perror("/questions");
        return 1;
    }
    snprintf(questions, sizeof questions, "%s", text);
    for (char *line = strtok_r(questions, "\n", &place); line; line = strtok_r(NULL, "\n", &place))
        reply(line);
    return 0;
}
