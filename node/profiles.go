package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path"
	"runtime"
	"runtime/pprof"
	"runtime/trace"
	"strconv"
	"time"
)

// Lengths of a profile or trace of a period.
const (
	defaultProfile = 30 * time.Second // as in net/http/pprof
	longestProfile = 10 * time.Minute
	// longestForMembers bounds a profile that another member asks for.
	longestForMembers = time.Minute
)

// The profiles of a process that operators get over the console and in ganglion debug.
const (
	cpuProfile, heapProfile, goroutineProfile = "cpu.pb.gz", "heap.pb.gz", "goroutines.txt"
)

// makeProfile writes one of these profiles. cpuProfile takes length; it fails with
// errRecording if the process already records one.
func makeProfile(ctx context.Context, name string, length time.Duration, to io.Writer) error {
	switch name {
	case heapProfile:
		return pprof.Lookup("heap").WriteTo(to, 0)
	case goroutineProfile:
		return pprof.Lookup("goroutine").WriteTo(to, 1)
	case cpuProfile:
		return recordFor(ctx, to, length, pprof.StartCPUProfile, pprof.StopCPUProfile)
	}
	return fmt.Errorf("the profile %.40q is unknown: %s, %s and %s are known", name, cpuProfile, heapProfile, goroutineProfile)
}

// errRecording wraps the error of a record that cannot begin.
var errRecording = errors.New("the process cannot record this now")

// recordFor records the process for a time, or until ctx ends. The process can make one
// record of a kind at a time.
func recordFor(ctx context.Context, to io.Writer, length time.Duration, start func(io.Writer) error, stop func()) error {
	if err := start(to); err != nil {
		return fmt.Errorf("%w: %w", errRecording, err)
	}
	defer stop()
	timer := time.NewTimer(length)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// serveProfiles serves the profiles of the process under /debug/pprof/, as net/http/pprof
// does, except for differences between two moments. That package would add 230 KB to a
// program.
func serveProfiles(mux *http.ServeMux) {
	mux.HandleFunc("GET /debug/pprof/{$}", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		fmt.Fprintln(w, "go tool pprof URL reads these profiles; ?seconds=N is the length of profile and trace, ?debug=1 gives text for the others:\n\nprofile\ntrace")
		for _, p := range pprof.Profiles() {
			fmt.Fprintln(w, p.Name(), p.Count())
		}
	})
	mux.HandleFunc("GET /debug/pprof/profile", during("a processor profile", pprof.StartCPUProfile, pprof.StopCPUProfile))
	mux.HandleFunc("GET /debug/pprof/trace", during("a trace", trace.Start, trace.Stop))
	mux.HandleFunc("GET /debug/pprof/{name}", func(w http.ResponseWriter, r *http.Request) {
		p := pprof.Lookup(r.PathValue("name"))
		debug, err := strconv.Atoi(r.FormValue("debug"))
		switch {
		case p == nil:
			writeText(w, http.StatusNotFound, fmt.Sprintf("there is no profile %.40q: /debug/pprof/ lists them", r.PathValue("name")))
			return
		case err != nil && r.FormValue("debug") != "":
			writeText(w, http.StatusBadRequest, "debug is a number: 0 for go tool pprof, 1 or 2 for text")
			return
		case debug > 0:
			w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		default:
			attach(w, p.Name())
		}
		if p.Name() == "heap" && r.FormValue("gc") != "" {
			runtime.GC()
		}
		_ = p.WriteTo(w, debug) // the reader may have gone
	})
}

// during returns a handler that records the process for the number of seconds that the
// request asks for.
func during(what string, start func(w io.Writer) error, stop func()) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		length := defaultProfile
		if text := r.FormValue("seconds"); text != "" {
			seconds, err := strconv.ParseFloat(text, 64)
			if err != nil || seconds <= 0 || seconds > longestProfile.Seconds() {
				writeText(w, http.StatusBadRequest, fmt.Sprintf("seconds is %.20q: write a number up to %g", text, longestProfile.Seconds()))
				return
			}
			length = time.Duration(seconds * float64(time.Second))
		}
		attach(w, path.Base(r.URL.Path))
		if err := recordFor(r.Context(), w, length, start, stop); errors.Is(err, errRecording) {
			w.Header().Del("Content-Disposition")
			writeText(w, http.StatusConflict, "cannot make "+what+": "+err.Error())
		}
	}
}

func attach(w http.ResponseWriter, name string) {
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Content-Disposition", `attachment; filename="`+name+`"`)
}
