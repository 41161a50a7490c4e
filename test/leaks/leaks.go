// Package leaks fails test runs that leave goroutines.
package leaks

import (
	"time"

	"go.uber.org/goleak"
)

// patience bounds the wait for goroutines that end by themselves, such as those of
// connections that the other side has closed.
const patience = 30 * time.Second

// Main is the TestMain of a package. It is goleak.VerifyTestMain, which waits for half a
// second only, too short for a busy machine.
func Main(m goleak.TestingM) { goleak.VerifyTestMain(patient{m}) }

type patient struct{ goleak.TestingM }

func (p patient) Run() int {
	code := p.TestingM.Run()
	for end := time.Now().Add(patience); code == 0 && goleak.Find() != nil && time.Now().Before(end); {
	}
	return code
}
