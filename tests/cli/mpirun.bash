# mpirun.bash: what tests under a real mpirun share: it runs as root, in a container, with more ranks than processors,
# beside other tests.
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1
export OMPI_MCA_hwloc_base_binding_policy=none OMPI_MCA_btl_vader_single_copy_mechanism=none OMPI_MCA_mpi_yield_when_idle=1
# Where `ferry train` cannot run on several ranks, says so as a skipped test, and ends the test.
need_ranks() {
	local mpi=${FERRY_MPI:-$(dirname "$ferry")/ferry-mpi.so}
	if ! command -v mpirun >/dev/null || [ ! -e "$mpi" ]; then
		echo "ok - training on several ranks # SKIP there is no mpirun, or no ferry-mpi.so (libopenmpi-dev and openmpi-bin, then make mpi)"
		exit 0
	fi
}
