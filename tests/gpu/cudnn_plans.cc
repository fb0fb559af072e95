/*
 * cudnn_plans DRIVER: what can be shown of attention by cuDNN without a GPU. The real library (found as kernels/cuda/cudnn.cu
 * finds it) takes the graphs, finds an engine for a device that is described to it, compiles the kernels and finishes a plan,
 * which tells its workspace (NVIDIA: "deviceless ahead-of-time compilation"). DRIVER is tests/gpu/cudnn_driver.cc, since
 * cuDNN hands the compiled kernels to a driver for keeping. Nothing runs. Fields of the description: NVIDIA documents
 * none; these are what 9.19 and 9.28 ask for, with the figures of the cards' data sheets and CUDA's tables.
 */
#include "kernels/cuda/cudnn_plan.cuh"
#include "tests/gpu/tap.h"

#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

struct card {
	const char *name;
	int version, processors, shared, l2, bus, clock, memory_clock;
	long long memory;
};
static const struct card a100 = {
	"NVIDIA A100-SXM4-80GB", 800, 108, 166912, 41943040, 5120, 1410000, 1593000, 85899345920};
static const struct card h100 = {
	"NVIDIA H100 80GB HBM3", 900, 132, 232448, 52428800, 5120, 1980000, 2619000, 85899345920};

static struct cudnn_functions call;

static void *describe(const struct card *c)
{
	char json[1500];
	void *d = NULL;
	snprintf(json, sizeof json,
		"{\"maxGridSize\":[2147483647,65535,65535],\"maxBlockSize\":[1024,1024,64],\"regsPerBlock\":"
		"65536,"
		"\"multiProcessorCount\":%d,\"warpSize\":32,\"maxSharedMemoryPerBlock\":49152,"
		"\"maxSharedMemoryPerBlockOptin\":%d,\"reservedSharedMemoryPerBlock\":1024,"
		"\"maxRegistersPerSM\":65536,\"maxCtasPerSM\":32,\"maxThreadsPerBlock\":1024,"
		"\"maxThreadsPerSM\":2048,\"pciDeviceId\":0,\"isTccDriver\":0,\"supportCoopLaunch\":1,"
		"\"totalGlobalMem\":%lld,\"smClockRateKHz\":%d,\"memClockRateKHz\":%d,\"memoryBusWidth\":%d,"
		"\"l2CacheSize\":%d,\"cudaDeviceId\":0,\"deviceVer\":%d,\"driverVer\":13000,"
		"\"deviceName\":\"%s\"}",
		c->processors, c->shared, c->memory, c->clock, c->memory_clock, c->bus, c->l2, c->version,
		c->name);
	bool good = call.cudnnBackendCreateDescriptor(cudnn_BACKEND_DEVICEPROP_DESCRIPTOR, &d) == 0 &&
		    call.cudnnBackendSetAttribute(d, cudnn_ATTR_DEVICEPROP_JSON_REPRESENTATION,
			    cudnn_TYPE_CHAR, (int64_t)strlen(json), json) == 0 &&
		    call.cudnnBackendFinalize(d) == 0;
	return good ? d : NULL;
}

static bool is_engine(const struct cudnn_plan *a, const struct cudnn_plan *b)
{
	return a->workspace == b->workspace && !memcmp(&a->engine, &b->engine, sizeof a->engine);
}

/* A plan; for heads of 64, by what is recorded of it a second one, too. */
static void planned(const struct card *card, void *properties, struct cudnn_shape shape)
{
	char why[CUDNN_REASON];
	struct cudnn_device device = {NULL, properties};
	struct cudnn_plan plan, again = {};
	int64_t most = cudnn_workspace_most(&shape);
	bool good = cudnn_plan_open(&call, &device, &shape, NULL, most, &plan, why);
	if (good && shape.D == 64)
		good = cudnn_plan_open(&call, &device, &shape, &plan.engine, most, &again, why) &&
		       is_engine(&plan, &again);
	ok(good, "%s of %s for compute capability %.1f, B=%d T=%d H=%d D=%d: %s",
		shape.backward ? "backward" : "forward", shape.type == DTYPE_BF16 ? "bf16" : "fp16",
		card->version / 100.0, shape.B, shape.T, shape.H, shape.D, good ? "planned" : why);
	printf("# engine %lld, %lld bytes of workspace, %lld allowed\n", (long long)plan.engine.index,
		(long long)plan.workspace, (long long)most);
	cudnn_plan_close(&call, &again);
	cudnn_plan_close(&call, &plan);
}

static void refused(void *properties, struct cudnn_shape shape, const struct cudnn_engine *engine,
	int64_t most, const char *what)
{
	char why[CUDNN_REASON] = "";
	struct cudnn_device device = {NULL, properties};
	struct cudnn_plan plan;
	bool good = cudnn_plan_open(&call, &device, &shape, engine, most, &plan, why);
	ok(!good && why[0] && plan.descriptors.empty(), "no plan: %s: %s", what, why);
}

static int skip(const char *why)
{
	printf("ok 1 # SKIP plans of attention by cuDNN: %s\n", why);
	return 0;
}

int main(int argc, char **argv)
{
	char why[CUDNN_REASON];
	const char *named = getenv("FERRY_CUDNN");
	if (argc < 2 || !dlopen(argv[1], RTLD_NOW | RTLD_GLOBAL)) {
		fprintf(stderr, "usage: cudnn_plans DRIVER\n");
		return 2;
	}
	if (!cudnn_load(named && *named ? named : NULL, &call, why))
		return skip(why);
	printf("# cuDNN %zu\n", call.cudnnGetVersion());
	void *h = describe(&h100), *a = describe(&a100);
	if (!h || !a)
		return skip("this version takes no description of a device, or asks for more of it");
	static const int depths[] = {64, 80, 96, 128};
	for (int d = 0; d < 4; d++)
		for (int backward = 0; backward < 2; backward++) {
			planned(&h100, h, {backward, DTYPE_BF16, 8, 1024, 16, depths[d]});
			planned(&h100, h, {backward, DTYPE_F16, 2, 777 + d, 12, depths[d]});
			if (depths[d] == 128)
				planned(&a100, a, {backward, DTYPE_BF16, 3, 1000, 12, depths[d]});
		}
	planned(&h100, h, {0, DTYPE_BF16, 24, 1, 16, 64});
	planned(&h100, h, {1, DTYPE_F16, 1, 2048, 25, 64});
	struct cudnn_engine none = {};
	none.index = 1000;
	refused(h, {0, DTYPE_BF16, 1, 128, 2, 36}, NULL, 4096, "heads of 36");
	refused(h, {1, DTYPE_BF16, 8, 1024, 16, 64}, NULL, 1 << 20, "1 MB of workspace");
	refused(h, {0, DTYPE_BF16, 1, 128, 2, 64}, &none, 4096, "an engine that is not there");
	(void)call.cudnnBackendDestroyDescriptor(h);
	(void)call.cudnnBackendDestroyDescriptor(a);
	printf("1..%d\n# %d failed\n", number, failed);
	return failed != 0;
}
