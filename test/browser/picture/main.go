// Command picture opens a page in Chromium, waits, and writes a screenshot:
//
//	picture URL SECONDS FILE
package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/chromedp/chromedp"
)

func main() {
	if len(os.Args) != 4 {
		fmt.Fprintln(os.Stderr, "usage: picture URL SECONDS FILE")
		os.Exit(2)
	}
	if err := take(os.Args[1], os.Args[2], os.Args[3]); err != nil {
		fmt.Fprintln(os.Stderr, "picture:", err)
		os.Exit(1)
	}
}

func take(url, seconds, file string) error {
	wait, err := time.ParseDuration(seconds + "s")
	if err != nil {
		return err
	}
	allocator, end := chromedp.NewExecAllocator(context.Background(), append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath("chromium-headless-shell"), chromedp.NoSandbox, chromedp.DisableGPU)...)
	defer end()
	ctx, closePage := chromedp.NewContext(allocator)
	defer closePage()
	if err := chromedp.Do(ctx, chromedp.EmulateViewport(1280, 860), chromedp.Navigate(url)); err != nil {
		return err
	}
	time.Sleep(wait)
	png, err := chromedp.Run(ctx, chromedp.CaptureScreenshot())
	if err != nil {
		return err
	}
	return os.WriteFile(file, png, 0o644)
}
