package report

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestVerdictCountsOnlyMissesBeyondNoise(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		ratio Ratio
		want  string
	}{
		{Ratio{Values: []float64{1, 1, 1}}, ""},
		{Ratio{Values: []float64{1, 1, 1}, AtLeast: 0.9}, "reached"},
		{Ratio{Values: []float64{1, 1, 1}, AtLeast: 0.9, Aim: 1.1}, "reached, not the aim"},
		{Ratio{Values: []float64{1, 1, 1}, AtLeast: 1.1}, "MISSED"},
		{Ratio{Values: []float64{0.7, 1, 1.3}, AtLeast: 1.1}, "within the noise"},
		{Ratio{Values: []float64{1, 1, 1}, AtMost: 1.1}, "reached"},
		{Ratio{Values: []float64{1, 1, 1}, AtMost: 0.9}, "MISSED"},
		{Ratio{Values: []float64{0.7, 1, 1.3}, AtMost: 0.9}, "within the noise"},
		{Ratio{Values: []float64{-2, -1, -3}, AtMost: 1}, "reached"},
		{Ratio{SubjectFailed: true, AtMost: 1}, "MISSED: it failed"},
		{Ratio{RivalFailed: "centrifuge", AtMost: 1}, "centrifuge failed"},
	} {
		got, missed := c.ratio.verdict()
		if got != c.want || missed != strings.HasPrefix(c.want, "MISSED") {
			t.Errorf("%+v: verdict %q (missed: %v), want %q", c.ratio, got, missed, c.want)
		}
		if n := Print(io.Discard, []Ratio{c.ratio}); (n == 1) != missed {
			t.Errorf("%+v: Print counts %d misses", c.ratio, n)
		}
	}
}

func TestTurnsReverseEveryOtherRound(t *testing.T) {
	t.Parallel()
	var got []string
	err := TakeTurns(t.Context(), []string{"a", "b"}, 3, func(c string, round int) error {
		got = append(got, fmt.Sprint(c, round))
		return nil
	})
	if want := []string{"a0", "b0", "b1", "a1", "a2", "b2"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("the turns were %v, %v, want %v", got, err, want)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := TakeTurns(ctx, []int{1}, 1, func(int, int) error { return nil }); err == nil {
		t.Error("a cancelled run is measured")
	}
}

func TestFiguresAreFormattedForTables(t *testing.T) {
	t.Parallel()
	for f, want := range map[float64]string{0: "0", 999: "999", 51400: "51,400", 1234567.4: "1,234,567"} {
		if got := Thousands(f); got != want {
			t.Errorf("Thousands(%v) is %q, want %q", f, got, want)
		}
	}
	if got := Median([]float64{4, 1, 3, 2}); got != 2.5 {
		t.Errorf("the median is %v, want 2.5", got)
	}
	if got := Percentile([]time.Duration{1, 2, 3, 4}, 0.99); got != 4 {
		t.Errorf("the 99th percentile is %v, want 4", got)
	}
	if got := Known(false, "%.2f", 1); got != "–" {
		t.Errorf("an unknown figure is shown as %q", got)
	}
}
