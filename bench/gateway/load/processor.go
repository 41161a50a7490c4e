package load

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ganglion-es/ganglion/bench/procstat"
)

// processorTimes returns the processor time of each process, its children and theirs
// since they started, including ended children, since PostgreSQL starts and
// ends processes. own is the time of this process.
func processorTimes(pids []int) (list []time.Duration, own time.Duration, err error) {
	if own, err = ProcessorTime(0); err != nil {
		return nil, 0, err
	}
	for _, pid := range pids {
		d, err := ProcessorTime(pid)
		if err != nil {
			return nil, 0, err
		}
		if s, ok := procstat.Read(pid); ok {
			d += s.Ended
		}
		for _, child := range procstat.Children(pid) {
			c, err := ProcessorTime(child.PID)
			if err != nil && !errors.Is(err, unix.EINVAL) { // EINVAL: it has just ended
				return nil, 0, err
			}
			d += c
		}
		list = append(list, d)
	}
	return list, own, nil
}

// ProcessorTime returns the processor time of a process since it started; 0 is
// this process. It reads the clock of the process, which is finer than the
// ticks of /proc (clock_getcpuclockid(3)).
func ProcessorTime(pid int) (time.Duration, error) {
	const perProcess = 2 // CPUCLOCK_SCHED, of all threads
	var t unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|perProcess), &t); err != nil {
		return 0, fmt.Errorf("processor time of process %d: %w", pid, err)
	}
	return time.Duration(t.Nano()), nil
}
