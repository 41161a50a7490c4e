// Package procstat reads the processor time of processes from /proc, where
// the system has one.
package procstat

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Stat is a part of /proc/<pid>/stat; see proc_pid_stat(5).
type Stat struct {
	PID, Parent int
	Own         time.Duration // processor time of the process
	Ended       time.Duration // processor time of its children that have ended
}

// Read returns the Stat of a process. It returns false if the process has
// ended, or if the system has no /proc.
func Read(pid int) (Stat, bool) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return Stat{}, false
	}
	// The program's name is in parentheses and may contain spaces.
	f := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
	if len(f) < 15 {
		return Stat{}, false
	}
	number := func(i int) int { n, _ := strconv.Atoi(string(f[i])); return n }
	const tick = time.Second / 100 // USER_HZ is 100 on every platform that Go supports
	return Stat{
		PID: pid, Parent: number(1),
		Own:   time.Duration(number(11)+number(12)) * tick,
		Ended: time.Duration(number(13)+number(14)) * tick,
	}, true
}

// Children returns the running children of a process, and their children.
func Children(pid int) []Stat {
	children := map[int][]Stat{}
	files, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, file := range files {
		child, _ := strconv.Atoi(strings.Split(file, "/")[2])
		if s, ok := Read(child); ok {
			children[s.Parent] = append(children[s.Parent], s)
		}
	}
	list := children[pid]
	for i := 0; i < len(list); i++ {
		list = append(list, children[list[i].PID]...)
	}
	return list
}
