#!/usr/bin/env python3
# test_new_preemption_scheme.py

from gpreempt import clock as time
from gpreempt import HQDResourceMonitor, SmartQueueScheduler, scan_queues_by_priority

def main():
    print("╔════════════════════════════════════════════════════════╗")
    print("║  新方案：基于Map/Unmap的队列抢占测试                    ║")
    print("╚════════════════════════════════════════════════════════╝")
    print("")
    
    # 1. 初始化调度器
    sched = SmartQueueScheduler()
    
    # 2. 显示HQD资源状态
    print("📊 HQD资源初始状态:")
    status = sched.hqd_monitor.current_status
    print(f"  Total: {status.total}")
    print(f"  Online Reserved: {status.online_reserved} (10%)")
    print(f"  Offline Max: {status.offline_max} (80%)")
    print("")
    
    # 3. 启动Offline模型（后台）
    print("🚀 启动Offline-AI模型（训练）...")
    import subprocess
    offline_proc = subprocess.Popen([
        'python3', 'offline_training.py'
    ])
    
    time.sleep(2)  # 等待队列创建
    
    # 4. 扫描并注册Offline队列
    print("📝 注册Offline队列...")
    offline_queues = scan_queues_by_priority(min_prio=0, max_prio=5)
    print(f"  发现{len(offline_queues)}个Offline队列")
    
    for q in offline_queues:
        sched.register_offline_queue(q.queue_id)
    print("")
    
    # 5. 启动Online模型
    print("🚀 启动Online-AI模型（推理）...")
    online_proc = subprocess.Popen([
        'python3', 'online_inference.py'
    ])
    
    time.sleep(1)
    
    # 6. 注册Online队列
    print("📝 注册Online队列...")
    online_queues = scan_queues_by_priority(min_prio=10, max_prio=15)
    print(f"  发现{len(online_queues)}个Online队列")
    print("")
    
    # 7. 模拟Online高峰，触发抢占
    print("╔════════════════════════════════════════════════════════╗")
    print("║  开始抢占测试（20次）                                   ║")
    print("╚════════════════════════════════════════════════════════╝")
    print("")
    
    for i in range(20):
        print(f"\n━━━ 测试轮次 {i+1}/20 ━━━")
        
        # 记录开始时间
        start = time.time()
        
        # 触发抢占
        sched.handle_online_request()
        
        # 记录总延迟
        end_to_end_latency = (time.time() - start) * 1000
        print(f"  端到端延迟: {end_to_end_latency:.2f} ms")
        
        # 显示HQD资源状态
        status = sched.hqd_monitor.current_status
        print(f"  HQD状态: active={status.active}, free={status.free}")
        
        time.sleep(0.5)  # 每500ms一个请求
    
    # 8. 打印统计
    print("\n")
    sched.print_statistics()
    
    # 9. 清理
    sched.cleanup()
    offline_proc.terminate()
    online_proc.terminate()
    
    print("\n✅ 测试完成！")

if __name__ == '__main__':
    main()
