/*
 * A libnvidia-ml.so.1 without a GPU: what the tests and benchmarks of the NVML source load through nvidia-ml-py.
 *
 * The file named by PERFWATT_STUB_NVML (struct control, mapped shared) holds the switches; they are read at every call,
 * so a test throws one while the library is in use. Without that file there are PERFWATT_STUB_DEVICES (16) healthy
 * devices. Power is a sine of the clock, so every energy and average over time has a closed form to test against:
 *
 *     p(t) = mean + swing sin(2 pi t / period),   e(t) = its integral from 0
 *
 * gcc -shared -fPIC -O2 -Wl,-soname,libnvidia-ml.so.1 -o libnvidia-ml.so.1 stub_nvml.c -lm
 */
#include <fcntl.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define API __attribute__((visibility("default")))
#define MAX_DEVICES 32
#define MAX_INSTANCES 7
#define NAME 64
#define LISTED 64

enum {
    OK = 0, UNINITIALIZED = 1, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7,
    TIMEOUT = 10, GPU_IS_LOST = 15, UNKNOWN = 999
};

struct device {
    int64_t absent, lost, hang, unknown, slow_us, calls;        /* what is wrong with it; calls made to it */
    int64_t instances, layout;                                  /* MIG: how many (0 is off), and of which making */
    int64_t xid[8], xid_made, xid_taken;
    int64_t reasons, processes, pid, sleeping;
    int64_t module_scope, architecture, pstate, pcie_wraps;
    int64_t power_limit_mw, reset_at_mj, power_reads;           /* the counter is what it would be less reset_at_mj */
    double mean_w, swing_w, period_s, counter_gain;
};

struct control {
    int64_t devices, clock_ns, tick_ms, average_ms, instant_ms, driver_gone, inits;
    int64_t denied_count, broken_count, broken_code;
    char driver[NAME];
    char denied[LISTED][NAME];     /* "nvmlDeviceGetFanSpeed" or "field 186 0" (id and scope): not supported */
    char broken[LISTED][NAME];     /* the same names: fail with broken_code, 999 (unknown) */
    struct device device[MAX_DEVICES];
};

struct handle { int device, instance; };                        /* instance -1 is the board */

static struct control *control;
static struct handle handles[MAX_DEVICES][MAX_INSTANCES + 1];
static int initialised;

/* ------------------------------------------------------------------------------------------------ switches */

static void defaults(struct control *c) {
    const char *count = getenv("PERFWATT_STUB_DEVICES");
    c->devices = count ? atoi(count) : 16;
    c->broken_code = UNKNOWN, c->tick_ms = 100, c->average_ms = 1000, c->instant_ms = 25;
    strcpy(c->driver, "590.48.01");
    for (int i = 0; i < MAX_DEVICES; i++) {
        struct device *d = &c->device[i];
        d->mean_w = 400, d->swing_w = 100, d->period_s = 60, d->counter_gain = 1;
        d->architecture = 9, d->power_limit_mw = 700000, d->reasons = 4;
    }
}

API void stub_defaults(struct control *c) { memset(c, 0, sizeof *c); defaults(c); }
API int stub_holders(void) { return initialised; }
API int64_t stub_size(void) { return sizeof(struct control); }

static void find_control(void) {
    const char *path = getenv("PERFWATT_STUB_NVML");
    if (control) return;
    if (path) {
        int file = open(path, O_RDWR);
        if (file >= 0) {
            void *at = mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
            close(file);
            if (at != MAP_FAILED) { control = at; return; }
        }
        fprintf(stderr, "stub_nvml: cannot map %s\n", path);
        abort();
    }
    control = calloc(1, sizeof *control);
    defaults(control);
}

static int listed(char names[LISTED][NAME], int64_t count, const char *name) {
    for (int64_t i = 0; i < count; i++) if (!strcmp(names[i], name)) return 1;
    return 0;
}

static int switched(const char *name) {
    if (control->denied_count && listed(control->denied, control->denied_count, name)) return NOT_SUPPORTED;
    if (control->broken_count && listed(control->broken, control->broken_count, name)) return (int)control->broken_code;
    return OK;
}

static int enter(struct handle *h, const char *function, struct device **out) {
    if (!initialised || control->driver_gone) return UNINITIALIZED;
    if (!h || h < &handles[0][0] || h > &handles[MAX_DEVICES - 1][MAX_INSTANCES]) return INVALID_ARGUMENT;
    struct device *d = &control->device[h->device];
    d->calls++;
    while (d->hang) usleep(100000);
    if (d->slow_us) usleep((useconds_t)d->slow_us);
    if (d->lost || d->absent) return GPU_IS_LOST;
    if (d->unknown) return UNKNOWN;
    if (h->instance >= d->instances) return INVALID_ARGUMENT;   /* a partition that was destroyed */
    *out = d;
    return switched(function);
}

/* Open a function of a device; BOARD refuses partitions. */
#define ENTER(h) \
    struct device *d __attribute__((unused)) = NULL; \
    int refused = enter((struct handle *)(h), __func__, &d); \
    if (refused) return refused
#define BOARD(h) \
    ENTER(h); \
    if (((struct handle *)(h))->instance >= 0) return NOT_SUPPORTED
#define DEVICE(h) (((struct handle *)(h))->device)
#define INSTANCE(h) (((struct handle *)(h))->instance)

/* ------------------------------------------------------------------------------------------------- physics */

static double now(void) {
    struct timespec t;
    if (control->clock_ns) return control->clock_ns * 1e-9;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static double energy(const struct device *d, double t) {
    double w = 2 * M_PI / d->period_s;
    return d->mean_w * t + d->swing_w / w * (1 - cos(w * t));
}

static double floored(double t, double step) { return step > 0 ? floor(t / step + 1e-9) * step : t; }

/* The sensor renews its reading each 100 ms: the mean of the window that ends then. */
static double boxcar(const struct device *d, int64_t window_ms) {
    double end = floored(now(), 0.1), window = window_ms * 1e-3;
    return (energy(d, end) - energy(d, end - window)) / window;
}

static uint64_t counter_mj(const struct device *d) {
    double at = energy(d, floored(now(), control->tick_ms * 1e-3)) * d->counter_gain * 1e3;
    return (uint64_t)(at - d->reset_at_mj);
}

/* The 1-s boxcar came with Ampere, but GA100 (whose compute capability is 8.0) kept the short window. */
static int averages(const struct device *d) { return d->architecture >= 7 && d->architecture != 70; }

/* ------------------------------------------------------------------------------------------ library, handles */

API int nvmlInitWithFlags(unsigned flags) {
    (void)flags;
    find_control();
    if (control->driver_gone) return 9;
    for (int i = 0; i < MAX_DEVICES; i++)
        for (int j = 0; j <= MAX_INSTANCES; j++) handles[i][j] = (struct handle){i, j - 1};
    control->inits++;
    initialised++;
    return OK;
}
API int nvmlInit_v2(void) { return nvmlInitWithFlags(0); }
API int nvmlShutdown(void) { if (!initialised) return UNINITIALIZED; initialised--; return OK; }
API const char *nvmlErrorString(int code) {
    switch (code) {
        case OK: return "Success";
        case UNINITIALIZED: return "Uninitialized";
        case INVALID_ARGUMENT: return "Invalid Argument";
        case NOT_SUPPORTED: return "Not Supported";
        case NOT_FOUND: return "Not Found";
        case INSUFFICIENT_SIZE: return "Insufficient Size";
        case TIMEOUT: return "Timeout";
        case GPU_IS_LOST: return "GPU is lost";
        default: return "Unknown Error";
    }
}

static int text(char *out, unsigned size, const char *value) {
    if (strlen(value) >= size) return INSUFFICIENT_SIZE;
    strcpy(out, value);
    return OK;
}

API int nvmlSystemGetDriverVersion(char *out, unsigned size) { return text(out, size, control->driver); }
API int nvmlSystemGetNVMLVersion(char *out, unsigned size) { return text(out, size, "13.590.48.01"); }
API int nvmlSystemGetCudaDriverVersion_v2(int *out) { *out = 13010; return OK; }
API int nvmlSystemGetCudaDriverVersion(int *out) { *out = 13010; return OK; }

API int nvmlDeviceGetCount_v2(unsigned *count) {
    if (!initialised || control->driver_gone) return UNINITIALIZED;
    *count = 0;
    for (int i = 0; i < control->devices; i++) *count += !control->device[i].absent;
    return OK;
}
API int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **out) {
    unsigned seen = 0;
    if (!initialised || control->driver_gone) return UNINITIALIZED;
    for (int i = 0; i < control->devices; i++) {
        if (control->device[i].absent || seen++ != index) continue;
        control->device[i].calls++;
        if (control->device[i].lost) return GPU_IS_LOST;
        *out = &handles[i][0];
        return OK;
    }
    return INVALID_ARGUMENT;
}
API int nvmlDeviceGetHandleByPciBusId_v2(const char *bus, void **out) {
    unsigned domain, number, slot;
    if (!initialised || control->driver_gone) return UNINITIALIZED;
    if (sscanf(bus, "%x:%x:%x", &domain, &number, &slot) != 3) return INVALID_ARGUMENT;
    int i = (int)number - 16;
    if (i < 0 || i >= control->devices || control->device[i].absent) return NOT_FOUND;
    control->device[i].calls++;
    if (control->device[i].lost) return GPU_IS_LOST;
    *out = &handles[i][0];
    return OK;
}
API int nvmlDeviceGetIndex(void *h, unsigned *out) {
    ENTER(h);
    *out = 0;
    for (int i = 0; i < DEVICE(h); i++) *out += !control->device[i].absent;
    return OK;
}
API int nvmlDeviceGetMinorNumber(void *h, unsigned *out) { BOARD(h); *out = DEVICE(h); return OK; }
API int nvmlDeviceGetUUID(void *h, char *out, unsigned size) {
    char value[NAME];
    ENTER(h);
    if (INSTANCE(h) < 0) snprintf(value, NAME, "GPU-%08x-0000-4000-8000-000000000000", DEVICE(h));
    else snprintf(value, NAME, "MIG-%08x-%04x-5000-8000-%012x", DEVICE(h), INSTANCE(h), (unsigned)d->layout);
    return text(out, size, value);
}

static const struct { const char *name; unsigned slices, processors, memory_mb; } PROFILE[MAX_INSTANCES] = {
    {"3g.40gb", 3, 60, 40448}, {"2g.20gb", 2, 32, 20096}, {"1g.10gb", 1, 16, 9984}, {"1g.10gb", 1, 16, 9984},
    {"1g.10gb", 1, 16, 9984}, {"1g.10gb", 1, 16, 9984}, {"1g.10gb", 1, 16, 9984}};

API int nvmlDeviceGetName(void *h, char *out, unsigned size) {
    char value[96];
    ENTER(h);
    snprintf(value, sizeof value, "NVIDIA H100 80GB HBM3%s%s", INSTANCE(h) < 0 ? "" : " MIG ",
             INSTANCE(h) < 0 ? "" : PROFILE[INSTANCE(h)].name);
    return text(out, size, value);
}
API int nvmlDeviceGetSerial(void *h, char *out, unsigned size) {
    char value[NAME];
    BOARD(h);
    snprintf(value, NAME, "16500230%05d", DEVICE(h));
    return text(out, size, value);
}
API int nvmlDeviceGetVbiosVersion(void *h, char *out, unsigned size) { BOARD(h); return text(out, size, "96.00.A5.00.01"); }
API int nvmlDeviceGetPciInfo_v3(void *h, void *out) {
    struct { char old[16]; unsigned domain, bus, device, id, subsystem; char bus_id[32]; } *p = out;
    BOARD(h);
    memset(p, 0, sizeof *p);
    p->bus = DEVICE(h) + 16, p->id = 0x233010DE;
    snprintf(p->bus_id, 32, "00000000:%02X:00.0", p->bus);
    snprintf(p->old, 16, "0000:%02X:00.0", p->bus);
    return OK;
}
API int nvmlDeviceGetPciInfo_v2(void *h, void *out) { return nvmlDeviceGetPciInfo_v3(h, out); }
API int nvmlDeviceGetArchitecture(void *h, unsigned *out) { ENTER(h); *out = d->architecture == 70 ? 7 : d->architecture; return OK; }
API int nvmlDeviceGetCudaComputeCapability(void *h, int *major, int *minor) {
    ENTER(h);
    *major = d->architecture == 70 ? 8 : d->architecture == 7 ? 8 : (int)d->architecture;
    *minor = d->architecture == 7 ? 6 : 0;
    return OK;
}
API int nvmlDeviceGetPersistenceMode(void *h, unsigned *out) { BOARD(h); *out = 1; return OK; }
API int nvmlDeviceGetComputeMode(void *h, unsigned *out) { BOARD(h); *out = 0; return OK; }

/* ----------------------------------------------------------------------------------------------- power, energy */

API int nvmlDeviceGetPowerUsage(void *h, unsigned *out) {       /* of a partition: the whole board's, as seen in the field */
    ENTER(h);
    d->power_reads++;
    *out = boxcar(d, averages(d) ? control->average_ms : control->instant_ms) * 1e3;
    return OK;
}
API int nvmlDeviceGetTotalEnergyConsumption(void *h, unsigned long long *out) { ENTER(h); *out = counter_mj(d); return OK; }
API int nvmlDeviceGetEnforcedPowerLimit(void *h, unsigned *out) { ENTER(h); *out = d->power_limit_mw; return OK; }
API int nvmlDeviceGetPowerManagementLimit(void *h, unsigned *out) { BOARD(h); *out = d->power_limit_mw + 10000; return OK; }
API int nvmlDeviceGetPowerManagementDefaultLimit(void *h, unsigned *out) { BOARD(h); *out = 700000; return OK; }
API int nvmlDeviceGetPowerManagementLimitConstraints(void *h, unsigned *low, unsigned *high) {
    BOARD(h);
    *low = 200000, *high = 720000;
    return OK;
}

struct value { unsigned id, scope; int64_t stamp, latency; unsigned type; int code; union { double f; unsigned u; uint64_t l; } v; };

static int as_int(struct value *f, unsigned value) { f->type = 1, f->v.l = 0, f->v.u = value; return OK; }
static int as_long(struct value *f, uint64_t value) { f->type = 3, f->v.l = value; return OK; }

static int field(const struct device *d, struct value *f, int k) {
    char name[NAME];
    if (control->denied_count + control->broken_count) {
        snprintf(name, NAME, "field %u %u", f->id, f->scope);
        int code = switched(name);
        if (code) return code;
    }
    double t = now();
    switch (f->id) {
        case 3: return as_long(f, 7 + k);                       /* ECC, volatile */
        case 4: return as_long(f, 1);
        case 29: return as_long(f, 2);                          /* retired pages */
        case 30: return as_long(f, 3);
        case 38: return as_long(f, 1);                          /* NVLink errors */
        case 45: return as_long(f, 2);
        case 52: return as_long(f, 3);
        case 59: return as_long(f, 4);
        case 74: return as_long(f, 221310321000 + (uint64_t)(t * 1e6));   /* ns */
        case 75: return as_long(f, 5000000000);
        case 76: return as_long(f, 1000000000);
        case 77: return as_long(f, 2000000000);
        case 78: return as_long(f, 3000000000);
        case 79: return as_long(f, 4000000000);
        case 82: return as_int(f, 58 + k);                      /* memory temperature */
        case 83: return as_long(f, counter_mj(d));
        case 91: return as_int(f, 18);
        case 94: return as_int(f, 9);
        case 138: return as_long(f, (uint64_t)(t * 2000000));   /* NVLink KiB, all links or one */
        case 139: return as_long(f, (uint64_t)(t * 1000000));
        case 142: return as_int(f, 5);                          /* remapped rows */
        case 143: return as_int(f, 6);
        case 144: return as_int(f, 1);
        case 145: return as_int(f, 0);
        case 185: case 186:
            if (f->scope == 0 && f->id == 185 && !averages(d)) return NOT_SUPPORTED;
            if (f->scope == 0 && d->module_scope == 2) return NOT_SUPPORTED;
            if (f->scope == 1 && !d->module_scope) return NOT_SUPPORTED;
            if (f->scope == 2 && f->id == 186) return NOT_SUPPORTED;
            if (f->scope == 2) return as_int(f, 93980);
            return as_int(f, (boxcar(d, f->id == 185 ? control->average_ms : control->instant_ms) +
                              (f->scope == 1 ? 250 : 0)) * 1e3);
        case 197: return as_long(f, d->pcie_wraps ? (uint32_t)(t * 4e6) : (uint64_t)(t * 4e6));
        case 198: return as_long(f, d->pcie_wraps ? (uint32_t)(t * 9e6) : (uint64_t)(t * 9e6));
        case 202: case 204: case 208:                           /* NVLink bytes and errors, link by link */
            if (d->architecture < 10 || d->architecture == 70 || f->scope > 17) return NOT_SUPPORTED;
            return as_long(f, f->id == 208 ? 1 : (uint64_t)(t * (f->id == 202 ? 1e9 : 5e8)));
        case 269: return as_long(f, 6000000000);
        case 270: return as_long(f, 7000000000);
        case 271: return as_long(f, 8000000000);
        default: return INVALID_ARGUMENT;
    }
}
API int nvmlDeviceGetFieldValues(void *h, int count, void *out) {
    struct value *f = out;
    BOARD(h);
    for (int i = 0; i < count; i++) {
        f[i].stamp = (int64_t)(now() * 1e6);
        f[i].code = field(d, &f[i], DEVICE(h));
    }
    return OK;
}

/* --------------------------------------------------------------------------------------------- one value each */

API int nvmlDeviceGetUtilizationRates(void *h, unsigned *out) {
    BOARD(h);
    if (d->instances) return NOT_SUPPORTED;                     /* a board in MIG mode has none */
    out[0] = 50 + DEVICE(h), out[1] = 20 + DEVICE(h);
    return OK;
}
API int nvmlDeviceGetEncoderUtilization(void *h, unsigned *out, unsigned *period) {
    BOARD(h);
    if (d->instances) return NOT_SUPPORTED;
    *out = 3, *period = 167000;
    return OK;
}
API int nvmlDeviceGetDecoderUtilization(void *h, unsigned *out, unsigned *period) {
    BOARD(h);
    if (d->instances) return NOT_SUPPORTED;
    *out = 4, *period = 167000;
    return OK;
}
API int nvmlDeviceGetMemoryInfo_v2(void *h, void *out) {
    struct { unsigned version; unsigned long long total, reserved, free, used; } *m = out;
    const uint64_t mib = 1 << 20;
    ENTER(h);
    if (m->version != 0x02000028) return 25;
    m->total = (INSTANCE(h) < 0 ? 81559 : PROFILE[INSTANCE(h)].memory_mb) * mib;
    m->reserved = INSTANCE(h) < 0 ? 479 * mib : 0;
    m->used = (INSTANCE(h) < 0 ? 11125 : 17) * mib;
    m->free = m->total - m->reserved - m->used;
    return OK;
}
API int nvmlDeviceGetMemoryInfo(void *h, unsigned long long *out) {    /* the old one counts reserved memory as used */
    const uint64_t mib = 1 << 20;
    ENTER(h);
    out[0] = 81559 * mib, out[2] = (11125 + 479) * mib, out[1] = out[0] - out[2];
    return OK;
}
API int nvmlDeviceGetClockInfo(void *h, unsigned type, unsigned *out) {
    static const unsigned mhz[4] = {1980, 1975, 2619, 1545};
    ENTER(h);
    if (type > 3) return INVALID_ARGUMENT;
    *out = mhz[type] - (type < 2 ? DEVICE(h) : 0);
    return OK;
}
API int nvmlDeviceGetMaxClockInfo(void *h, unsigned type, unsigned *out) {
    static const unsigned mhz[4] = {1981, 1982, 2620, 1546};
    BOARD(h);
    if (type > 3) return INVALID_ARGUMENT;
    *out = mhz[type];
    return OK;
}
API int nvmlDeviceGetMinMaxClockOfPState(void *h, unsigned type, unsigned state, unsigned *low, unsigned *high) {
    BOARD(h);
    if (type != 1 || state) return NOT_SUPPORTED;
    *low = 345, *high = 1982;
    return OK;
}
API int nvmlDeviceGetTemperature(void *h, unsigned sensor, unsigned *out) { ENTER(h); (void)sensor; *out = 52 + DEVICE(h); return OK; }
API int nvmlDeviceGetTemperatureThreshold(void *h, unsigned which, unsigned *out) {
    static const unsigned celsius[4] = {95, 90, 105, 87};
    BOARD(h);
    if (which > 3) return NOT_SUPPORTED;
    *out = celsius[which];
    return OK;
}
API int nvmlDeviceGetMarginTemperature(void *h, int *out) { BOARD(h); if (out[0] != 0x1000008) return 25; out[1] = 35 - DEVICE(h); return OK; }
API int nvmlDeviceGetFanSpeed(void *h, unsigned *out) { BOARD(h); *out = 38; return OK; }
API int nvmlDeviceGetFanSpeedRPM(void *h, unsigned *out) { BOARD(h); out[2] = 2100; return OK; }
API int nvmlDeviceGetPerformanceState(void *h, unsigned *out) { BOARD(h); *out = d->pstate; return OK; }
API int nvmlDeviceGetCurrentClocksEventReasons(void *h, unsigned long long *out) { ENTER(h); *out = d->reasons; return OK; }
API int nvmlDeviceGetCurrentClocksThrottleReasons(void *h, unsigned long long *out) { ENTER(h); *out = d->reasons; return OK; }
API int nvmlDeviceGetViolationStatus(void *h, unsigned policy, unsigned long long *out) {
    BOARD(h);
    out[0] = (uint64_t)(now() * 1e6), out[1] = (policy + 1) * 1500000000ULL;
    return OK;
}
API int nvmlDeviceGetCurrPcieLinkGeneration(void *h, unsigned *out) { BOARD(h); *out = 5; return OK; }
API int nvmlDeviceGetCurrPcieLinkWidth(void *h, unsigned *out) { BOARD(h); *out = 16; return OK; }
API int nvmlDeviceGetPcieReplayCounter(void *h, unsigned *out) { BOARD(h); *out = 9; return OK; }
API int nvmlDeviceGetPcieThroughput(void *h, unsigned which, unsigned *out) { BOARD(h); *out = which ? 8691 : 4217; return OK; }
API int nvmlDeviceGetNvLinkState(void *h, unsigned link, unsigned *out) {
    BOARD(h);
    if (link > 17) return INVALID_ARGUMENT;
    *out = link < 16;
    return OK;
}
API int nvmlDeviceGetTotalEccErrors(void *h, unsigned type, unsigned counter, unsigned long long *out) {
    BOARD(h);
    *out = type ? 1 : 7 + DEVICE(h);
    (void)counter;
    return OK;
}
API int nvmlDeviceGetRemappedRows(void *h, unsigned *corrected, unsigned *uncorrected, unsigned *pending, unsigned *failed) {
    BOARD(h);
    *corrected = 5, *uncorrected = 6, *pending = 1, *failed = 0;
    return OK;
}
API int nvmlDeviceWorkloadPowerProfileGetCurrentProfiles(void *h, unsigned *out) {
    BOARD(h);
    if (out[0] != 0x1000064) return 25;
    memset(out + 1, 0, 24 * 4);
    out[17] = 1u << 3;                                          /* enforced: profile 3 */
    return OK;
}

/* ---------------------------------------------------------------------------------------------------- MIG */

API int nvmlDeviceGetMigMode(void *h, unsigned *current, unsigned *pending) { BOARD(h); *current = *pending = d->instances > 0; return OK; }
API int nvmlDeviceGetMaxMigDeviceCount(void *h, unsigned *out) { BOARD(h); *out = MAX_INSTANCES; return OK; }
API int nvmlDeviceGetMigDeviceHandleByIndex(void *h, unsigned index, void **out) {
    BOARD(h);
    if (index >= d->instances) return NOT_FOUND;
    *out = &handles[DEVICE(h)][index + 1];
    return OK;
}
API int nvmlDeviceIsMigDeviceHandle(void *h, unsigned *out) { ENTER(h); *out = INSTANCE(h) >= 0; return OK; }
API int nvmlDeviceGetDeviceHandleFromMigDeviceHandle(void *h, void **out) { ENTER(h); *out = &handles[DEVICE(h)][0]; return OK; }
API int nvmlDeviceGetGpuInstanceId(void *h, unsigned *out) { ENTER(h); if (INSTANCE(h) < 0) return NOT_SUPPORTED; *out = INSTANCE(h) + 2; return OK; }
API int nvmlDeviceGetComputeInstanceId(void *h, unsigned *out) { ENTER(h); if (INSTANCE(h) < 0) return NOT_SUPPORTED; *out = 0; return OK; }
API int nvmlDeviceGetAttributes_v2(void *h, void *out) {
    struct { unsigned processors, engines[5], slices, compute; unsigned long long memory_mb; } *a = out;
    ENTER(h);
    if (INSTANCE(h) < 0) return NOT_SUPPORTED;
    memset(a, 0, sizeof *a);
    a->processors = PROFILE[INSTANCE(h)].processors, a->memory_mb = PROFILE[INSTANCE(h)].memory_mb;
    a->slices = a->compute = PROFILE[INSTANCE(h)].slices;
    return OK;
}

/* ----------------------------------------------------------------------------------------- events, processes */

struct set { int device; };
API int nvmlEventSetCreate(void **out) {
    struct set *s = malloc(sizeof *s);
    if (!s) return 20;
    s->device = -1;
    *out = s;
    return initialised ? OK : UNINITIALIZED;
}
API int nvmlEventSetFree(void *s) { free(s); return OK; }
API int nvmlDeviceGetSupportedEventTypes(void *h, unsigned long long *out) { BOARD(h); *out = 8; return OK; }
API int nvmlDeviceRegisterEvents(void *h, unsigned long long types, void *s) {
    BOARD(h);
    if (types != 8) return NOT_SUPPORTED;
    ((struct set *)s)->device = DEVICE(h);
    return OK;
}
API int nvmlEventSetWait_v2(void *set, void *out, unsigned timeout_ms) {
    struct { void *device; unsigned long long type, data; unsigned instance, compute; } *e = out;
    struct set *s = set;
    (void)timeout_ms;
    if (s->device < 0) return TIMEOUT;
    struct device *d = &control->device[s->device];
    if (d->xid_taken >= d->xid_made) return TIMEOUT;
    e->device = &handles[s->device][0], e->type = 8, e->data = d->xid[d->xid_taken++ % 8];
    e->instance = e->compute = 0xFFFFFFFF;
    return OK;
}

struct process { unsigned pid; unsigned long long memory; unsigned instance, compute; };
API int nvmlDeviceGetComputeRunningProcesses_v3(void *h, unsigned *count, struct process *out) {
    ENTER(h);
    unsigned have = d->processes, room = *count;
    *count = have;
    if (!have) return OK;
    if (!out || room < have) return INSUFFICIENT_SIZE;
    for (unsigned i = 0; i < have; i++)                         /* the second one's memory is not available */
        out[i] = (struct process){d->pid + i, i == 1 ? ~0ULL : 2566ULL << 20, d->instances ? 2 + i % d->instances : ~0u, 0};
    return OK;
}
API int nvmlDeviceGetGraphicsRunningProcesses_v3(void *h, unsigned *count, struct process *out) {
    ENTER(h);
    unsigned room = *count;
    *count = d->processes > 0;                                  /* the first compute process draws, too */
    if (!*count) return OK;
    if (!out || !room) return INSUFFICIENT_SIZE;
    out[0] = (struct process){d->pid, 100ULL << 20, ~0u, ~0u};
    return OK;
}
API int nvmlDeviceGetProcessUtilization(void *h, void *out, unsigned *count, unsigned long long since) {
    struct { unsigned pid; unsigned long long stamp; unsigned sm, memory, encoder, decoder; } *u = out;
    BOARD(h);
    (void)since;
    if (d->instances) return NOT_SUPPORTED;
    if (!d->processes) { *count = 0; return NOT_FOUND; }
    if (!out || *count < 1) { *count = 1; return INSUFFICIENT_SIZE; }
    *count = 1;
    u[0].pid = d->pid, u[0].stamp = (uint64_t)(now() * 1e6), u[0].sm = 42, u[0].memory = 7, u[0].encoder = u[0].decoder = 0;
    return OK;
}

/* ----------------------------------------------------------------------------- GPM: activity from two samples */

struct sample { int device, instance; double at; };
API int nvmlGpmQueryDeviceSupport(void *h, unsigned *out) { BOARD(h); out[1] = d->architecture >= 9 && d->architecture < 70; return OK; }
API int nvmlGpmSampleAlloc(void **out) { *out = calloc(1, sizeof(struct sample)); return OK; }
API int nvmlGpmSampleFree(void *s) { free(s); return OK; }
API int nvmlGpmSampleGet(void *h, void *s) { BOARD(h); *(struct sample *)s = (struct sample){DEVICE(h), -1, now()}; return OK; }
API int nvmlGpmMigSampleGet(void *h, unsigned instance, void *s) {
    BOARD(h);
    *(struct sample *)s = (struct sample){DEVICE(h), (int)instance - 2, now()};
    return OK;
}
API int nvmlGpmMetricsGet(void *request) {
    struct { unsigned id; int code; double value; const char *names[3]; } *m;
    struct { unsigned version, count; struct sample *first, *second; } *r = request;
    if (switched("nvmlGpmMetricsGet")) return switched("nvmlGpmMetricsGet");
    m = (void *)(r + 1);
    for (unsigned i = 0; i < r->count; i++) {
        m[i].code = r->second->at > r->first->at ? OK : 21;
        m[i].value = 10.0 * m[i].id + r->second->instance + 1;  /* percent; of metric 2, 20 and a bit */
        if (m[i].id > 13) m[i].code = NOT_SUPPORTED;
        if (m[i].value > 100) m[i].value = 100;
    }
    return OK;
}
