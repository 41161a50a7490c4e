package load

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// processorTimes returns what processes have used of processors since they
// began, and what their children have, those that have ended included: the
// processes of PostgreSQL come and go. own is of this process.
func processorTimes(pids []int) (list []time.Duration, own time.Duration, err error) {
	for _, pid := range pids {
		d, err := ProcessorTime(pid)
		if err != nil {
			return nil, 0, err
		}
		list = append(list, d)
	}
	if own, err = ProcessorTime(0); err != nil {
		return nil, 0, err
	}
	files, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, file := range files {
		s, ok := readStat(file)
		if !ok {
			continue // it has just ended
		}
		if i := slices.Index(pids, s.pid); i >= 0 {
			list[i] += s.ended
		}
		if i := slices.Index(pids, s.parent); i >= 0 {
			d, err := ProcessorTime(s.pid)
			if err != nil && !errors.Is(err, unix.EINVAL) { // which says that it has just ended
				return nil, 0, err
			}
			list[i] += d
		}
	}
	return list, own, nil
}

// ProcessorTime returns what a process has used of processors since it began,
// 0 being this one. It asks the process's clock, which is finer than the ticks
// of /proc (clock_getcpuclockid(3)).
func ProcessorTime(pid int) (time.Duration, error) {
	const perProcess = 2 // CPUCLOCK_SCHED, of all threads
	var t unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|perProcess), &t); err != nil {
		return 0, fmt.Errorf("processor time of process %d: %w", pid, err)
	}
	return time.Duration(t.Nano()), nil
}

type stat struct {
	pid, parent int
	ended       time.Duration // what children that have ended had used
}

// readStat reads pid (name) state parent …; see proc_pid_stat(5).
func readStat(file string) (s stat, ok bool) {
	b, err := os.ReadFile(file)
	if err != nil {
		return s, false
	}
	const tick = time.Second / 100 // USER_HZ, on every architecture that Go has
	f := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
	if len(f) < 15 {
		return s, false
	}
	number := func(b []byte) int { n, _ := strconv.Atoi(string(b)); return n }
	s.pid = number(b[:bytes.IndexByte(b, ' ')])
	s.parent = number(f[1])
	s.ended = time.Duration(number(f[13])+number(f[14])) * tick // cutime, cstime
	return s, true
}
